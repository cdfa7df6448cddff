//! A record as one line of text: whatever a client sends, one request is one line that parses.

use std::{
    fmt::{self, Write as _},
    time::SystemTime,
};

use super::Record;

/// Appends the record as a JSON object and a line end.
pub(super) fn json(record: &Record<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"time\":\"");
    time(record.time, out);
    out.push(b'"');
    let mut line = Json(out);
    line.text("request_id", record.request_id.as_bytes());
    line.value("client", format_args!("\"{}\"", record.client));
    line.text("method", record.method.as_bytes());
    line.text("host", record.host);
    line.text("path", record.path);
    line.text("protocol", record.protocol.as_bytes());
    line.value("status", format_args!("{}", record.status));
    line.text("reason", record.reason.unwrap_or("-").as_bytes());
    line.value("bytes_sent", format_args!("{}", record.bytes_sent));
    line.value("bytes_received", format_args!("{}", record.bytes_received));
    line.value("duration", format_args!("{:.6}", record.duration.as_secs_f64()));
    match record.upstream {
        Some(address) => line.value("upstream", format_args!("\"{address}\"")),
        None => line.value("upstream", format_args!("null")),
    }
    line.value("attempts", format_args!("{}", record.attempts));
    line.name("ingress");
    let (namespace, name) = record.ingress;
    out.push(b'"');
    json_escape(namespace.as_bytes(), out);
    if !name.is_empty() {
        out.push(b'/');
        json_escape(name.as_bytes(), out);
    }
    out.push(b'"');
    let mut line = Json(out);
    line.text("service", record.service.as_bytes());
    line.optional("user_agent", record.user_agent);
    line.optional("referer", record.referer);
    out.extend_from_slice(b"}\n");
}

/// Appends the record in the combined format, followed by fields of ours, and a line end.
pub(super) fn text(record: &Record<'_>, out: &mut Vec<u8>) {
    put(out, format_args!("{} - - [", record.client));
    time(record.time, out);
    out.extend_from_slice(b"] \"");
    text_escape(record.method.as_bytes(), out);
    out.push(b' ');
    text_escape(record.path, out);
    put(out, format_args!(" {}\" {} {} ", record.protocol, record.status, record.bytes_sent));
    quoted(record.referer.unwrap_or(b"-"), out);
    out.push(b' ');
    quoted(record.user_agent.unwrap_or(b"-"), out);
    out.extend_from_slice(b" host=");
    quoted(record.host, out);
    out.extend_from_slice(b" id=");
    quoted(record.request_id.as_bytes(), out);
    let reason = record.reason.unwrap_or("-");
    let seconds = record.duration.as_secs_f64();
    put(out, format_args!(" reason={reason} received={} duration={seconds:.6}", record.bytes_received));
    match record.upstream {
        Some(address) => put(out, format_args!(" upstream={address}")),
        None => out.extend_from_slice(b" upstream=-"),
    }
    let (namespace, name) = record.ingress;
    let (slash, service) = (if name.is_empty() { "-" } else { "/" }, record.service);
    let service = if service.is_empty() { "-" } else { service };
    put(out, format_args!(" attempts={} ingress={namespace}{slash}{name} service={service}\n", record.attempts));
}

/// Members of a JSON object after the first.
struct Json<'a>(&'a mut Vec<u8>);

impl Json<'_> {
    fn name(&mut self, name: &str) {
        put(self.0, format_args!(",\"{name}\":"));
    }

    fn value(&mut self, name: &str, value: fmt::Arguments<'_>) {
        self.name(name);
        put(self.0, value);
    }

    fn text(&mut self, name: &str, value: &[u8]) {
        self.name(name);
        self.0.push(b'"');
        json_escape(value, self.0);
        self.0.push(b'"');
    }

    fn optional(&mut self, name: &str, value: Option<&[u8]>) {
        match value {
            Some(value) => self.text(name, value),
            None => self.value(name, format_args!("null")),
        }
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

fn quoted(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    text_escape(bytes, out);
    out.push(b'"');
}

/// Escapes for a quoted field: quotes and backslashes by a backslash, all but printable ASCII as `\xNN`.
fn text_escape(bytes: &[u8], out: &mut Vec<u8>) {
    for &byte in bytes {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
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
    use super::{super::tests::record, *};

    const HOSTILE: &[u8] = b"a\"b\\c\n\r\t\0\x1b[31m\x7f\xff\xc2\x85\xe2\x80\xa8 \xc3\xa4 \",\"status\":200,\"x\":\"";

    #[test]
    fn a_json_line_holds_every_field() {
        let mut line = Vec::new();
        json(&record(), &mut line);
        let expected = concat!(
            r#"{"time":"2023-11-14T22:13:20.123Z","request_id":"id-1","client":"192.0.2.7","method":"GET","#,
            r#""host":"a.example","path":"/x?q=1","protocol":"HTTP/1.1","status":200,"reason":"-","bytes_sent":5,"#,
            r#""bytes_received":0,"duration":0.001500,"upstream":"10.0.0.1:80","attempts":1,"ingress":"shop/front","#,
            r#""service":"cart","user_agent":"curl/8","referer":null}"#,
            "\n"
        );
        assert_eq!(String::from_utf8(line).unwrap(), expected);
    }

    #[test]
    fn a_text_line_is_combined_with_our_fields_after_it() {
        let mut line = Vec::new();
        text(
            &Record { reason: Some("no_route"), upstream: None, ingress: ("", ""), service: "", ..record() },
            &mut line,
        );
        let expected = concat!(
            r#"192.0.2.7 - - [2023-11-14T22:13:20.123Z] "GET /x?q=1 HTTP/1.1" 200 5 "-" "curl/8" host="a.example" "#,
            r#"id="id-1" reason=no_route received=0 duration=0.001500 upstream=- attempts=1 ingress=- service=-"#,
            "\n"
        );
        assert_eq!(String::from_utf8(line).unwrap(), expected);
    }

    #[test]
    fn hostile_bytes_stay_one_json_line_and_keep_their_field() {
        let mut line = Vec::new();
        let hostile = Record { path: HOSTILE, host: HOSTILE, user_agent: Some(HOSTILE), status: 404, ..record() };
        json(&hostile, &mut line);
        assert_eq!(line.iter().position(|b| *b == b'\n'), Some(line.len() - 1));
        assert!(line[..line.len() - 1].iter().all(|b| *b >= b' ' && *b != 0x7f), "a control byte got through");
        let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(value["status"], 404);
        let path = value["path"].as_str().unwrap();
        assert_eq!(path, String::from_utf8_lossy(HOSTILE), "only invalid UTF-8 is replaced");
    }

    #[test]
    fn hostile_bytes_stay_one_printable_text_line() {
        let mut line = Vec::new();
        text(&Record { path: HOSTILE, referer: Some(HOSTILE), ..record() }, &mut line);
        assert_eq!(line.pop(), Some(b'\n'));
        assert!(line.iter().all(|b| (b' '..=b'~').contains(b)));
        let line = String::from_utf8(line).unwrap();
        assert!(line.contains(r#"a\"b\\c\x0a\x0d\x09\x00\x1b[31m\x7f\xff"#), "{line}");
    }
}
