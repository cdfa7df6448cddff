//! The share of an endpoint that has just come or recovered.

use std::time::Duration;

/// The least part of its weight that an endpoint gets: without requests it would not warm up (Envoy's
/// `min_weight_percent`).
const FLOOR: f32 = 0.1;

/// The part of its weight that an endpoint gets this long after it came or recovered: from a tenth it grows evenly to
/// all at the end of the window.
pub fn ramp(elapsed: Duration, window: Duration) -> f32 {
    if elapsed >= window { 1.0 } else { elapsed.div_duration_f32(window).max(FLOOR) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_evenly_from_a_tenth_to_all() {
        let at = |elapsed, window| ramp(Duration::from_secs(elapsed), Duration::from_secs(window));
        let cases = [(0, 30, 0.1), (3, 30, 0.1), (15, 30, 0.5), (30, 30, 1.0), (90, 30, 1.0), (0, 0, 1.0)];
        for (elapsed, window, expected) in cases {
            assert!((at(elapsed, window) - expected).abs() < 1e-6, "{elapsed} s of {window} s");
        }
    }
}
