//! What a choice would be made of, without making it: no turn is taken and nothing is counted.

use super::{
    Pool, Selection, Unpickable,
    availability::{Open, View, look},
};
use crate::{
    balance::{Candidates as _, Strategy},
    model::AffinityMode,
};

/// What a choice would be made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Preview {
    /// For each endpoint of the pool what it may expect.
    pub endpoints: Vec<Prospect>,
    /// The endpoint that is picked for sure, and why; None where turns, chance or load decide.
    pub certain: Option<(usize, Certainty)>,
    /// Too few endpoints are fit, so that fitness does not count.
    pub panic: bool,
}

/// What an endpoint may expect of the next request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prospect {
    /// It may be picked.
    pub is_open: bool,
    /// The part of all requests that it gets by its weight, from 0 to 1.
    pub share: f32,
}

/// Why an endpoint is picked for sure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// The client's cookie names it.
    Cookie,
    /// The address of the client belongs to it.
    ClientAddress,
    /// The hash of the request belongs to it.
    Hash,
    /// No other one is open.
    OnlyOne,
}

impl Pool {
    /// What [`pick`](Self::pick) would choose of.
    ///
    /// # Errors
    /// When nothing could be picked.
    pub fn preview(&self, selection: &Selection<'_>) -> Result<Preview, Unpickable> {
        if self.endpoints.is_empty() {
            return Err(Unpickable::NoEndpoint);
        }
        let open = look(self, selection.now);
        if open == Open::None {
            return Err(Unpickable::NoneFit);
        }
        let view = View { pool: self, open, tried: &[], connections: None, now: selection.now };
        let indices = 0..self.endpoints.len();
        let is_open: Vec<bool> = indices.clone().map(|index| view.is_open(index)).collect();
        let open_weight = |index: usize| if is_open[index] { self.balancer.weight_now(&view, index) } else { 0.0 };
        let total: f32 = indices.clone().map(open_weight).sum();
        let count = f32::from(u16::try_from(is_open.iter().filter(|open| **open).count()).unwrap_or(u16::MAX));
        let share = |index: usize| match is_open[index] {
            false => 0.0,
            true if total > 0.0 => open_weight(index) / total,
            true => 1.0 / count, // those without weight share evenly
        };
        let endpoints = indices.map(|index| Prospect { is_open: is_open[index], share: share(index) });
        let panic = matches!(open, Open::Near | Open::All);
        Ok(Preview { endpoints: endpoints.collect(), certain: self.certain(selection, open, &is_open), panic })
    }

    fn certain(&self, selection: &Selection<'_>, open: Open, is_open: &[bool]) -> Option<(usize, Certainty)> {
        if let Some(index) = self.resume(selection, open) {
            return Some((index, Certainty::Cookie));
        }
        let mode = self.backend.policy.cookie_affinity.as_ref().map(|affinity| affinity.mode);
        let strategy = self.backend.policy.load_balancing.strategy;
        let hashes = matches!(strategy, Strategy::ConsistentHash { .. } | Strategy::Maglev);
        let why = match mode {
            Some(AffinityMode::Balanced) if selection.session.is_some() => Some(Certainty::Cookie),
            None if self.backend.client_ip_affinity => Some(Certainty::ClientAddress),
            None if hashes && selection.key.is_some() => Some(Certainty::Hash),
            _ => None,
        };
        // Choices of these kinds take no turn.
        if let Some(why) = why {
            return self.choose_widening(selection, open).map(|(index, _)| (index, why));
        }
        let mut open = is_open.iter().enumerate().filter(|(_, open)| **open);
        let first = open.next()?.0;
        open.next().is_none().then_some((first, Certainty::OnlyOne))
    }
}
