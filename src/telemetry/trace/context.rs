//! The `traceparent` field (W3C Trace Context, Level 1): read strictly, written in version 00.

use std::fmt;

use http::HeaderValue;

/// Identifies a trace; never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceId(pub(super) u128);

/// Identifies a span of a trace; never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanId(pub(super) u64);

impl TraceId {
    /// A random one.
    pub(super) fn new() -> Self {
        Self(fastrand::u128(1..))
    }
}

impl SpanId {
    /// A random one.
    pub(super) fn new() -> Self {
        Self(fastrand::u64(1..))
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The span of the client that a request belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parent {
    pub(super) trace: TraceId,
    pub(super) span: SpanId,
    pub(super) sampled: bool,
}

impl Parent {
    /// Reads the field; None for what is not valid, which begins a new trace.
    pub(super) fn read(field: &[u8]) -> Option<Self> {
        // version "-" trace-id "-" parent-id "-" trace-flags; later versions may go on after another hyphen.
        let (version, rest) = (hex(field.get(..2)?)?, field.get(55..)?);
        let whole = if version == 0 { rest.is_empty() } else { rest.first().is_none_or(|byte| *byte == b'-') };
        if version == 0xff || !whole || field[2] != b'-' || field[35] != b'-' || field[52] != b'-' {
            return None;
        }
        let trace = hex(&field[3..35]).filter(|id| *id != 0)?;
        let span = u64::try_from(hex(&field[36..52])?).ok().filter(|id| *id != 0)?;
        let flags = hex(&field[53..55])?;
        Some(Self { trace: TraceId(trace), span: SpanId(span), sampled: flags & 1 == 1 })
    }
}

/// Lower-case hexadecimal only.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(digit))
    })
}

/// The field that names a span as the parent.
pub(super) fn field(trace: TraceId, span: SpanId, sampled: bool) -> HeaderValue {
    let text = format!("00-{trace}-{span}-{:02x}", u8::from(sampled));
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_valid_field_is_read_and_written_the_same() {
        let parent = Parent::read(VALID.as_bytes()).unwrap();
        assert_eq!(field(parent.trace, parent.span, parent.sampled), VALID);
        assert!(!Parent::read(VALID.replace("-01", "-02").as_bytes()).unwrap().sampled);
        assert!(Parent::read(VALID.replacen("00", "cc", 1).as_bytes()).unwrap().sampled, "a later version");
        assert!(Parent::read((VALID.replacen("00", "01", 1) + "-more").as_bytes()).is_some());
    }

    #[test]
    fn what_is_not_valid_is_none() {
        for bad in [
            String::new(),
            VALID[..54].to_owned(),
            VALID.to_owned() + "-",
            VALID.to_uppercase(),
            VALID.replacen("00", "ff", 1),
            VALID.replacen("00", "01", 1) + "x",
            VALID.replace("4bf92f3577b34da6a3ce929d0e0e4736", "00000000000000000000000000000000"),
            VALID.replace("00f067aa0ba902b7", "0000000000000000"),
            VALID.replace('-', "_"),
            VALID.replace("-01", "-0x"),
        ] {
            assert_eq!(Parent::read(bad.as_bytes()), None, "{bad}");
        }
    }
}
