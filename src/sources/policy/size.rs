//! Numbers of bytes, as Kubernetes quantities.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most that can be asked for.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// A number of bytes, plain or with a unit: `65536`, `64Ki`, `1M`.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
#[schemars(
    inline,
    transform = int_or_string,
)]
pub enum Size {
    /// Plain bytes.
    Bytes(i64),
    /// A number with a unit.
    Quantity(String),
}

fn int_or_string(schema: &mut schemars::Schema) {
    *schema = schemars::json_schema!({
        "x-kubernetes-int-or-string": true,
        "anyOf": [{ "type": "integer" }, { "type": "string" }],
        "pattern": "^[0-9]{1,8}(k|Ki|M|Mi)?$",
        "maxLength": 16,
        "x-kubernetes-validations": [{
            "rule": "!isQuantity(string(self)) || quantity(string(self)).compareTo(quantity('0')) >= 0 && quantity(string(self)).compareTo(quantity('16Mi')) <= 0",
            "message": "must be a number of bytes from 0 to 16Mi",
        }],
    });
}

impl Size {
    /// Bytes; None for what is no size, and for more than 16 MiB.
    pub(super) fn bytes(&self) -> Option<u64> {
        let bytes = match self {
            Self::Bytes(bytes) => u64::try_from(*bytes).ok()?,
            Self::Quantity(text) => {
                let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
                let unit = match unit {
                    "" => 1,
                    "k" => 1000,
                    "Ki" => 1024,
                    "M" => 1_000_000,
                    "Mi" => 1024 * 1024,
                    _ => return None,
                };
                number.parse::<u64>().ok().filter(|_| number.len() <= 8)? * unit
            }
        };
        (bytes <= MAX_BYTES).then_some(bytes)
    }
}

impl From<u64> for Size {
    fn from(bytes: u64) -> Self {
        if bytes > 0 && bytes.is_multiple_of(1024) {
            return Self::Quantity(format!("{}Ki", bytes / 1024));
        }
        Self::Bytes(i64::try_from(bytes).unwrap_or(i64::MAX))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => bytes.fmt(f),
            Self::Quantity(text) => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_plain_or_have_a_unit() {
        let cases = [
            ("0", Some(0)),
            ("65536", Some(65536)),
            ("64Ki", Some(65536)),
            ("1k", Some(1000)),
            ("1M", Some(1_000_000)),
            ("16Mi", Some(16_777_216)),
            ("17Mi", None),
            ("99999999Mi", None),
            ("123456789", None),
            ("1Gi", None),
            ("Ki", None),
            ("-1", None),
            ("1.5Ki", None),
            ("", None),
        ];
        for (text, bytes) in cases {
            assert_eq!(Size::Quantity(text.to_owned()).bytes(), bytes, "{text}");
        }
        assert_eq!(Size::Bytes(-1).bytes(), None);
        assert_eq!(Size::Bytes(16_777_217).bytes(), None);
        assert_eq!(Size::from(65536), Size::Quantity("64Ki".into()));
        assert_eq!(Size::from(65536).bytes(), Some(65536));
    }
}
