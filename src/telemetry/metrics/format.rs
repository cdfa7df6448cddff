//! The formats of a scrape, and which of them the scraper asked for.

use std::fmt::Write as _;

/// What a scrape is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus's text format, for people and older scrapers.
    Text,
    /// `OpenMetrics` text.
    OpenMetrics,
    /// Prometheus's protobuf format, the only one with native histograms.
    Protobuf,
}

impl Format {
    /// The best of what an `Accept` header asks for; text when it asks for none of ours, or is not there.
    pub fn of(accept: &str) -> Self {
        let mut best = (Self::Text, 0.0_f32);
        for range in accept.split(',') {
            let mut parameters = range.split(';').map(str::trim);
            let offered = match parameters.next().unwrap_or_default() {
                "application/openmetrics-text" => Self::OpenMetrics,
                "application/vnd.google.protobuf" => Self::Protobuf,
                "text/plain" => Self::Text,
                _ => continue,
            };
            let (mut quality, mut is_ours) = (1.0, true);
            for parameter in parameters {
                match parameter.split_once('=') {
                    Some(("q", value)) => quality = value.parse().unwrap_or(0.0),
                    Some(("proto", value)) => is_ours &= value == "io.prometheus.client.MetricFamily",
                    Some(("encoding", value)) => is_ours &= value == "delimited",
                    _ => {}
                }
            }
            if is_ours && quality > best.1 {
                best = (offered, quality);
            }
        }
        best.0
    }

    /// Its media type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
            }
        }
    }
}

/// `OpenMetrics` as the older text format has it: samples are the same, but families bear the names of their samples.
pub(super) fn to_text(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut told = None;
    for line in open_metrics.lines() {
        let mut words = line.splitn(4, ' ');
        let written = match (words.next(), words.next(), words.next(), words.next()) {
            // It comes before the type, which decides on the name.
            (Some("#"), Some("HELP"), Some(_), Some(help)) => {
                told = Some(help);
                Ok(())
            }
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                let (suffix, kind) = match kind {
                    "counter" => ("_total", "counter"),
                    "info" => ("_info", "gauge"),
                    kind => ("", kind),
                };
                let help = told.take().unwrap_or_default();
                write!(text, "# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}\n")
            }
            (Some("#"), ..) => Ok(()),
            _ => writeln!(text, "{line}"),
        };
        written.expect("a String takes whatever is written");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_the_best_that_is_asked_for() {
        let protobuf = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
                          application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        for (accept, format) in [
            ("", Format::Text),
            ("*/*", Format::Text),
            ("text/html, application/xhtml+xml", Format::Text),
            ("text/plain;version=0.0.4", Format::Text),
            (prometheus, Format::OpenMetrics),
            (&format!("{protobuf};q=0.6,{prometheus}"), Format::Protobuf),
            (&format!("{protobuf};q=0.1, {prometheus}"), Format::OpenMetrics),
            ("application/vnd.google.protobuf; proto=other; encoding=delimited", Format::Text),
            ("application/openmetrics-text; q=x, text/plain; q=0.1", Format::Text),
        ] {
            assert_eq!(Format::of(accept), format, "{accept}");
        }
    }

    #[test]
    fn families_of_the_older_format_bear_the_names_of_their_samples() {
        let open_metrics = "# HELP a A thing.\n# TYPE a counter\na_total{b=\"# TYPE\"} 1\n# HELP c_seconds C.\n\
                            # TYPE c_seconds gauge\n# UNIT c_seconds seconds\nc_seconds 2\n# HELP d D.\n\
                            # TYPE d info\nd_info{v=\"1\"} 1\n# EOF\n";
        let text = "# HELP a_total A thing.\n# TYPE a_total counter\na_total{b=\"# TYPE\"} 1\n# HELP c_seconds C.\n\
                    # TYPE c_seconds gauge\nc_seconds 2\n# HELP d_info D.\n# TYPE d_info gauge\nd_info{v=\"1\"} 1\n";
        assert_eq!(to_text(open_metrics), text);
    }
}
