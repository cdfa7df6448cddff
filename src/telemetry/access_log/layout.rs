//! How a line looks: a JSON object of chosen fields, or a template. Read once at start, never on the way of a request.
//!
//! Whatever a client sends, one request is one line, and a field of a template that stands outside quotes has no space.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{
    fields::{FIELDS, Field, Read, Record, Value},
    format::{self, Place},
};

/// The combined format with our own fields after it.
const TEXT: &str = concat!(
    r#"%client% - - [%time%] "%method% %path%%?query% %protocol%" %status% %bytes_sent% "%referer%" "%user_agent%" "#,
    r#"host="%host%" id="%request_id%" reason=%reason% received=%bytes_received% duration=%duration% "#,
    r#"upstream=%upstream% attempts=%attempts% namespace=%namespace% ingress=%ingress% service=%service%"#,
);

/// How a line looks, and the header fields that it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    shape: Shape,
    request_headers: Vec<HeaderName>,
    response_headers: Vec<HeaderName>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Shape {
    /// Members with what stands before each value: brace or comma, name, colon.
    Json(Vec<(Box<str>, Part)>),
    Template(Vec<Segment>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Literal(Box<str>),
    Value(Part, Place),
}

/// A value of a line, by its place in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Field(usize),
    /// Path and query in one, as the request line has them.
    Query,
    RequestHeader(usize),
    ResponseHeader(usize),
}

/// What is wrong with a template or a list of fields.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No such field.
    #[error("unknown field {0:?}: expected request_header(NAME), response_header(NAME) or one of {names}", names = names())]
    Field(String),
    /// Not a name of a header field.
    #[error("{0:?} is not the name of a header field")]
    Header(String),
    /// A percent sign that nothing closes.
    #[error("a field is not closed: write %name%, and %% for a percent sign")]
    Open,
    /// Two members of one name.
    #[error("field {0:?} is there twice: name one of them by KEY=FIELD")]
    Twice(String),
    /// Line ends and the like.
    #[error("control characters are not allowed: each request is one line")]
    Control,
    /// An object by hand.
    #[error("JSON is written by --access-log-fields, which escapes as JSON does")]
    Json,
    /// Nothing.
    #[error("expected at least one field")]
    Empty,
}

fn names() -> String {
    FIELDS.iter().map(|field| field.name).collect::<Vec<_>>().join(", ")
}

impl Layout {
    /// The combined format with our own fields after it.
    pub fn text() -> Self {
        Self::template(TEXT).expect("it is tested")
    }

    /// Every field of the table as a member of a JSON object.
    pub fn json() -> Self {
        Self::fields(&names()).expect("names of the table are in it")
    }

    fn empty() -> Self {
        Self { shape: Shape::Json(Vec::new()), request_headers: Vec::new(), response_headers: Vec::new() }
    }

    /// Reads a template: `%name%` is a field, `%%` a percent sign.
    ///
    /// # Errors
    /// When it names what there is not, or could not be one line that parses.
    pub fn template(text: &str) -> Result<Self, Error> {
        if text.chars().any(char::is_control) {
            return Err(Error::Control);
        }
        if text.trim().starts_with('{') && text.trim().ends_with('}') {
            return Err(Error::Json);
        }
        let mut layout = Self::empty();
        let (mut segments, mut place) = (Vec::new(), Place::Bare);
        // Every other part is a name; an empty one stands for the percent sign.
        for (at, part) in text.split('%').enumerate() {
            if at % 2 == 1 && !part.is_empty() {
                segments.push(Segment::Value(layout.part(part)?, place));
                continue;
            }
            let literal = if at % 2 == 1 { "%" } else { part };
            if literal.matches('"').count() % 2 == 1 {
                place = if place == Place::Bare { Place::Quoted } else { Place::Bare };
            }
            if !literal.is_empty() {
                segments.push(Segment::Literal(literal.into()));
            }
        }
        if text.matches('%').count() % 2 == 1 {
            return Err(Error::Open);
        }
        if !segments.iter().any(|segment| matches!(segment, Segment::Value(..))) {
            return Err(Error::Empty);
        }
        layout.shape = Shape::Template(segments);
        Ok(layout)
    }

    /// Reads a list of fields, the members of a JSON object: `time,status,agent=user_agent,request_header(x-foo)`.
    ///
    /// # Errors
    /// When it names what there is not, or a member twice.
    pub fn fields(text: &str) -> Result<Self, Error> {
        let mut layout = Self::empty();
        let (mut members, mut keys) = (Vec::<(Box<str>, Part)>::new(), Vec::new());
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            let (key, name) = match item.split_once('=') {
                Some((key, name)) => (key.trim().to_owned(), name.trim()),
                None => (item.trim_end_matches(')').replace(['(', '-'], "_").to_ascii_lowercase(), item),
            };
            let part = layout.part(name)?;
            if keys.contains(&key) {
                return Err(Error::Twice(key));
            }
            let before = if members.is_empty() { '{' } else { ',' };
            let mut member = vec![];
            format::json(Value::Bytes(key.as_bytes()), &mut member);
            members.push((format!("{before}{}:", String::from_utf8_lossy(&member)).into(), part));
            keys.push(key);
        }
        if members.is_empty() {
            return Err(Error::Empty);
        }
        layout.shape = Shape::Json(members);
        Ok(layout)
    }

    fn part(&mut self, name: &str) -> Result<Part, Error> {
        let header = |prefix: &str| {
            let name = name.strip_prefix(prefix)?.strip_prefix('(')?.strip_suffix(')')?;
            Some(name.parse::<HeaderName>().map_err(|_| Error::Header(name.to_owned())))
        };
        if let Some(header) = header("request_header") {
            return Ok(Part::RequestHeader(place_of(&mut self.request_headers, header?)));
        }
        if let Some(header) = header("response_header") {
            return Ok(Part::ResponseHeader(place_of(&mut self.response_headers, header?)));
        }
        if name == "?query" {
            return Ok(Part::Query);
        }
        let at = FIELDS.iter().position(|field| field.name == name).ok_or_else(|| Error::Field(name.to_owned()))?;
        match &FIELDS[at].read {
            Read::Record(_) => Ok(Part::Field(at)),
            Read::RequestHeader(header) => Ok(Part::RequestHeader(place_of(&mut self.request_headers, header.clone()))),
        }
    }

    /// The request fields that the layout names, to be copied when the request comes.
    pub fn request_headers(&self, headers: &HeaderMap) -> Box<[Option<HeaderValue>]> {
        self.request_headers.iter().map(|name| copy(headers, name)).collect()
    }

    /// The response fields that the layout names, to be copied when the response goes.
    pub fn response_headers(&self, headers: &HeaderMap) -> Box<[Option<HeaderValue>]> {
        self.response_headers.iter().map(|name| copy(headers, name)).collect()
    }

    /// Appends the line of a request, with its end.
    pub(super) fn write(&self, record: &Record<'_>, out: &mut Vec<u8>) {
        match &self.shape {
            Shape::Json(members) => {
                for (before, part) in members {
                    out.extend_from_slice(before.as_bytes());
                    format::json(part.value(record), out);
                }
                out.push(b'}');
            }
            Shape::Template(segments) => {
                for segment in segments {
                    match segment {
                        Segment::Literal(text) => out.extend_from_slice(text.as_bytes()),
                        Segment::Value(Part::Query, place) => {
                            if let Some(query) = record.query {
                                out.push(b'?');
                                format::text(Value::Bytes(query), *place, out);
                            }
                        }
                        Segment::Value(part, place) => format::text(part.value(record), *place, out),
                    }
                }
            }
        }
        out.push(b'\n');
    }
}

impl Part {
    fn value<'a>(self, record: &'a Record<'a>) -> Value<'a> {
        let header = |headers: &'a [Option<HeaderValue>], at: usize| {
            let value = headers.get(at).and_then(Option::as_ref);
            value.map_or(Value::Absent, |value| Value::Bytes(value.as_bytes()))
        };
        match self {
            Self::Field(at) => match &FIELDS[at] {
                Field { read: Read::Record(read), .. } => read(record),
                Field { .. } => Value::Absent,
            },
            Self::Query => Value::Absent,
            Self::RequestHeader(at) => header(record.request_headers, at),
            Self::ResponseHeader(at) => header(record.response_headers, at),
        }
    }
}

fn place_of(names: &mut Vec<HeaderName>, name: HeaderName) -> usize {
    names.iter().position(|known| *known == name).unwrap_or_else(|| {
        names.push(name);
        names.len() - 1
    })
}

/// The value of a field; several are joined, as RFC 9110 §5.3 allows.
fn copy(headers: &HeaderMap, name: &HeaderName) -> Option<HeaderValue> {
    let mut values = headers.get_all(name).iter();
    let (first, more) = (values.next()?, values.next());
    if more.is_none() {
        return Some(first.clone());
    }
    let all: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    HeaderValue::from_bytes(&all.join(&b", "[..])).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::tests::record, *};

    fn line(layout: &Layout, record: &Record<'_>) -> String {
        let mut line = Vec::new();
        layout.write(record, &mut line);
        assert_eq!(line.pop(), Some(b'\n'));
        assert!(line.iter().all(|byte| *byte >= b' ' && *byte != 0x7f), "a control byte got through");
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn a_json_line_holds_every_field_in_the_order_of_the_table() {
        let line = line(&Layout::json(), &record());
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value.as_object().unwrap().len(), FIELDS.len());
        assert!(line.starts_with(r#"{"time":"2023-11-14T22:13:20.123Z","request_id":"id-1","client":"192.0.2.7","#));
        for (name, expected) in [
            ("path", serde_json::json!("/x")),
            ("query", "q=1".into()),
            ("status", 200.into()),
            ("reason", serde_json::Value::Null),
            ("duration", 0.0015.into()),
            ("response_time", serde_json::Value::Null),
            ("upstream", "10.0.0.1:80".into()),
            ("retries", "reset,hedge".into()),
            ("user_agent", "curl/8".into()),
        ] {
            assert_eq!(value[name], expected, "{name}");
        }
    }

    #[test]
    fn a_text_line_is_combined_with_our_fields_after_it() {
        let headers = [None, None];
        let record = Record {
            reason: Some("no_route"),
            upstream: None,
            namespace: "",
            ingress: "",
            service: "",
            request_headers: &headers,
            ..record()
        };
        let expected = concat!(
            r#"192.0.2.7 - - [2023-11-14T22:13:20.123Z] "GET /x?q=1 HTTP/1.1" 200 5 "-" "-" host="a.example" "#,
            r#"id="id-1" reason=no_route received=0 duration=0.001500 upstream=- attempts=1 namespace=- ingress=- service=-"#,
        );
        assert_eq!(line(&Layout::text(), &record), expected);
    }

    #[test]
    fn templates_and_lists_name_fields_and_headers() {
        let headers = [Some(HeaderValue::from_static("a b"))];
        let record = Record { request_headers: &headers, response_headers: &headers, ..record() };
        for (template, expected) in [
            ("%status%", "200"),
            ("100%% %status%", "100% 200"),
            ("%request_header(X-Foo)%", r"a\x20b"),
            ("\"%response_header(X-Foo)%\" %method%", "\"a b\" GET"),
            ("%reason%", "-"),
        ] {
            assert_eq!(line(&Layout::template(template).unwrap(), &record), expected, "{template}");
        }
        for (fields, expected) in [
            ("status,method", r#"{"status":200,"method":"GET"}"#),
            ("code=status, request_header(X-Foo)", r#"{"code":200,"request_header_x_foo":"a b"}"#),
            ("a\"b=status", r#"{"a\"b":200}"#),
        ] {
            assert_eq!(line(&Layout::fields(fields).unwrap(), &record), expected, "{fields}");
        }
    }

    #[test]
    fn what_cannot_be_a_line_is_refused_with_what_could() {
        for (template, expected) in [
            ("%stats%", "one of time, request_id"),
            ("%status", "not closed"),
            ("%request_header(a b)%", "header field"),
            ("%status%\n", "control"),
            ("{\"a\":%status%}", "--access-log-fields"),
            ("plain", "at least one"),
        ] {
            let error = Layout::template(template).unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains('\n'), "{template:?}: {error}");
        }
        for (fields, expected) in [("stats", "one of"), ("", "at least one"), ("status,status", "twice")] {
            let error = Layout::fields(fields).unwrap_err().to_string();
            assert!(error.contains(expected), "{fields:?}: {error}");
        }
    }

    /// Splits a line at spaces outside quotes, as a reader of the log does.
    fn words(line: &str) -> Vec<String> {
        let (mut words, mut quoted, mut escaped) = (vec![String::new()], false, false);
        for c in line.chars() {
            match c {
                ' ' if !quoted => words.push(String::new()),
                '"' if !escaped => quoted = !quoted,
                c => words.last_mut().unwrap().push(c),
            }
            escaped = c == '\\' && !escaped;
        }
        assert!(!quoted, "a quote is not closed: {line}");
        words
    }

    proptest! {
        #[test]
        fn every_line_parses_whatever_clients_send(
            host in proptest::collection::vec(any::<u8>(), 0..40),
            path in proptest::collection::vec(any::<u8>(), 0..40),
            query in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40)),
            header in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let headers = [HeaderValue::from_bytes(&header).ok(), None];
            let record = Record {
                host: &host, path: &path, query: query.as_deref(), request_headers: &headers, ..record()
            };
            let json = line(&Layout::json(), &record);
            let value: serde_json::Value = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(value["status"].as_u64(), Some(200));
            if !path.is_empty() {
                let path = String::from_utf8_lossy(&path);
                prop_assert_eq!(value["path"].as_str(), Some(path.as_ref()));
            }
            prop_assert_eq!(words(&line(&Layout::text(), &record)).len(), 19);
            let bare = Layout::template("%host% %path% %query% %request_header(x)% %status%").unwrap();
            let words = words(&line(&bare, &record));
            prop_assert_eq!(words.len(), 5);
            prop_assert_eq!(words[4].as_str(), "200");
        }
    }
}
