//! Values as JSON and as text: whatever a client sends stays inside its field.

use std::{
    fmt::{self, Write as _},
    time::SystemTime,
};

use super::fields::Value;

/// Where a value stands in a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Between quotes.
    Quoted,
    /// Anywhere else: spaces are escaped too, so that the next field is not taken for a part of it.
    Bare,
}

/// Appends a value of a JSON object.
pub(super) fn json(value: Value<'_>, out: &mut Vec<u8>) {
    match value {
        Value::Absent | Value::Words([]) => out.extend_from_slice(b"null"),
        Value::Number(number) => put(out, format_args!("{number}")),
        Value::Seconds(duration) => put(out, format_args!("{:.6}", duration.as_secs_f64())),
        quoted => {
            out.push(b'"');
            match quoted {
                Value::Bytes(bytes) => json_escape(bytes, out),
                other => text(other, Place::Quoted, out),
            }
            out.push(b'"');
        }
    }
}

/// Appends a value of a template; a dash for what is absent or empty.
pub(super) fn text(value: Value<'_>, place: Place, out: &mut Vec<u8>) {
    match value {
        Value::Absent | Value::Words([]) | Value::Bytes([]) => out.push(b'-'),
        Value::Bytes(bytes) => text_escape(bytes, place, out),
        Value::Plain(plain) => put(out, format_args!("{plain}")),
        Value::Words(words) => {
            for (at, word) in words.iter().enumerate() {
                out.extend_from_slice(if at == 0 { b"" } else { b"," });
                out.extend_from_slice(word.as_bytes());
            }
        }
        Value::Number(number) => put(out, format_args!("{number}")),
        Value::Seconds(duration) => put(out, format_args!("{:.6}", duration.as_secs_f64())),
        Value::Time(at) => time(at, out),
    }
}

/// RFC 3339 with milliseconds, in UTC.
fn time(time: SystemTime, out: &mut Vec<u8>) {
    put(out, format_args!("{}", humantime::format_rfc3339_millis(time)));
}

/// Escapes for a JSON string (RFC 8259 §7). Bytes that are not UTF-8 become U+FFFD; DEL and the C1 controls are escaped
/// too, since terminals obey some of them.
fn json_escape(bytes: &[u8], out: &mut Vec<u8>) {
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' => out.extend_from_slice(b"\\\""),
                '\\' => out.extend_from_slice(b"\\\\"),
                // Line separators end a line for some readers.
                c if c.is_control() || c == '\u{2028}' || c == '\u{2029}' => {
                    put(out, format_args!("\\u{:04x}", u32::from(c)));
                }
                c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
}

/// Quotes and backslashes by a backslash, all but printable ASCII as `\xNN`.
fn text_escape(bytes: &[u8], place: Place, out: &mut Vec<u8>) {
    for &byte in bytes {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b' ' if place == Place::Bare => out.extend_from_slice(b"\\x20"),
            b' '..=b'~' => out.push(byte),
            _ => put(out, format_args!("\\x{byte:02x}")),
        }
    }
}

fn put(out: &mut Vec<u8>, what: fmt::Arguments<'_>) {
    struct Bytes<'a>(&'a mut Vec<u8>);
    impl fmt::Write for Bytes<'_> {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0.extend_from_slice(text.as_bytes());
            Ok(())
        }
    }
    // Appending to a Vec does not fail.
    let _ok = Bytes(out).write_fmt(what);
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &[u8] = b"a\"b\\c\n\r\t\0\x1b[31m\x7f\xff\xc2\x85\xe2\x80\xa8 \xc3\xa4 \",\"status\":200,\"x\":\"";

    #[test]
    fn hostile_bytes_stay_in_their_json_string() {
        let mut line = Vec::new();
        json(Value::Bytes(HOSTILE), &mut line);
        assert!(line.iter().all(|b| *b >= b' ' && *b != 0x7f), "a control byte got through");
        let value: String = serde_json::from_slice(&line).unwrap();
        assert_eq!(value, String::from_utf8_lossy(HOSTILE), "only invalid UTF-8 is replaced");
    }

    #[test]
    fn hostile_bytes_become_printable_text() {
        let mut line = Vec::new();
        text(Value::Bytes(HOSTILE), Place::Quoted, &mut line);
        assert!(line.iter().all(|b| (b' '..=b'~').contains(b)));
        let line = String::from_utf8(line).unwrap();
        assert!(line.starts_with(r#"a\"b\\c\x0a\x0d\x09\x00\x1b[31m\x7f\xff"#), "{line}");
    }
}
