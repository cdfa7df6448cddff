//! The explanation as text, for people.

use std::fmt;

use super::view::{BackendView, By, EndpointView, Explanation, Near, Rule, Source};

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { request, answer, .. } = self;
        writeln!(f, "{} {}", request.method, request.url)?;
        for note in &request.notes {
            line(f, "path", note)?;
        }
        let status = answer.status.map_or(String::new(), |status| format!("{status} "));
        let reason = answer.reason.map_or(String::new(), |reason| format!("{}: ", reason.label()));
        line(f, "answer", &format!("{status}{reason}{}", answer.message))?;
        if let Some(location) = &answer.location {
            line(f, "", &format!("Location: {location}"))?;
        }
        if !request.host.is_empty() {
            match &self.host {
                Some(host) => line(f, "host", &format!("{} by {host}", request.host))?,
                None => line(f, "host", &format!("{}: no rule has it", request.host))?,
            }
        }
        match &self.route {
            Some(rule) => written(f, "rule", &rule.path, &rule.source)?,
            None => line(f, "rule", "none")?,
        }
        for filter in &self.filters {
            line(f, "filter", filter)?;
        }
        if let Some(backend) = &self.backend {
            backend.write(f)?;
        }
        self.write_rest(f)
    }
}

impl Explanation {
    fn write_rest(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.near.is_empty() {
            writeln!(f, "\nCame near:")?;
        }
        for Near { rule: Rule { host, path, source }, why } in &self.near {
            writeln!(f, "  {host} {path}\n    {source}\n    lost: {why}")?;
        }
        if self.near_left_out > 0 {
            writeln!(f, "  and {} more", self.near_left_out)?;
        }
        if !self.problems.is_empty() {
            writeln!(f, "\nProblems:")?;
        }
        for told in &self.problems {
            writeln!(f, "  {}: {}\n    {}", told.severity, told.source, told.message)?;
        }
        if !self.hints.is_empty() {
            writeln!(f)?;
        }
        for hint in &self.hints {
            let mark = if self.answer.by == By::Error { "To do" } else { "Note" };
            writeln!(f, "{mark}: {hint}")?;
        }
        Ok(())
    }
}

impl BackendView {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        line(f, "backend", &self.id)?;
        if let Some(policy) = &self.policy {
            line(f, "policy", &policy.to_string())?;
        }
        if let Some(in_flight) = self.in_flight {
            let limit = self.limit.map_or("no limit".to_owned(), |limit| format!("limit {limit}"));
            line(f, "", &format!("{in_flight} in flight, {limit}, {} waiting", self.pending))?;
        }
        line(f, "picks", &self.pick)?;
        let width = self.endpoints.iter().map(|endpoint| endpoint.address.len()).max().unwrap_or_default();
        for endpoint in &self.endpoints {
            line(f, "", &self.endpoint(endpoint, width))?;
        }
        writeln!(f, "\nSettings in force:")?;
        let field = self.settings.iter().map(|setting| setting.field.len()).max().unwrap_or_default();
        let value = self.settings.iter().map(|setting| setting.value.len().min(40)).max().unwrap_or_default();
        for setting in &self.settings {
            writeln!(f, "  {:field$}  {:value$}  {}", setting.field, setting.value, setting.from)?;
        }
        Ok(())
    }
}

impl BackendView {
    fn endpoint(&self, endpoint: &EndpointView, width: usize) -> String {
        let EndpointView { address, state, weight, in_flight, .. } = endpoint;
        let mark = if self.picked.as_ref() == Some(address) { "*" } else { " " };
        let share = match &self.picked {
            None if endpoint.is_candidate => format!(" ({:.0} %)", endpoint.share_percent),
            _ => String::new(),
        };
        let mut parts = vec![format!("{mark} {address:width$}  weight {weight}{share}")];
        if !endpoint.near {
            parts.push("far".to_owned());
        }
        parts.push(state.clone());
        if self.in_flight.is_some() {
            parts.push(format!("{in_flight} in flight"));
        }
        if endpoint.latency_milliseconds > 0.0 {
            parts.push(format!("{:.1} ms", endpoint.latency_milliseconds));
        }
        if endpoint.ramp_percent < 100.0 {
            parts.push(format!("slow start {:.0} %", endpoint.ramp_percent));
        }
        parts.join(", ")
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.origin)?;
        if !self.field.is_empty() {
            write!(f, " {}", self.field)?;
        }
        if let Some(place) = &self.place {
            write!(f, ", {place}")?;
        }
        if let Some(created) = &self.created {
            write!(f, ", created {created}")?;
        }
        Ok(())
    }
}

fn line(f: &mut fmt::Formatter<'_>, name: &str, text: &str) -> fmt::Result {
    writeln!(f, "  {name:9}{text}")
}

fn written(f: &mut fmt::Formatter<'_>, name: &str, what: &str, source: &Source) -> fmt::Result {
    line(f, name, what)?;
    line(f, "", &source.to_string())
}
