//! Answers of our own: status and an explicit message in the form the client prefers, without internal addresses.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use super::{Error, headers::X_REQUEST_ID};

/// Seconds that `Retry-After` asks for: about as long as a rollout step takes.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// Methods that routes take: all but CONNECT and TRACE.
pub(super) const ALLOWED: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");

/// A form a message can be given in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Text,
    Html,
    Problem,
}

/// In order of preference between equals.
const FORMS: [(Form, &str, &[&str]); 3] = [
    (Form::Text, "text/plain; charset=utf-8", &["text/plain"]),
    (Form::Html, "text/html; charset=utf-8", &["text/html"]),
    // RFC 9457; a client that reads JSON reads it too.
    (Form::Problem, "application/problem+json", &["application/problem+json", "application/json"]),
];

/// The answer for an error to a request that accepts this and has this id.
pub(super) fn answer(error: Error, accept: Option<&HeaderValue>, request_id: &HeaderValue) -> Response<Bytes> {
    let (form, content_type) = preferred(accept);
    let mut response = Response::new(render(form, error, request_id.to_str().unwrap_or_default()));
    // A client that ended its half of the connection may still read; 499 is for the log.
    *response.status_mut() = if error == Error::ClientGone { StatusCode::BAD_REQUEST } else { error.status() };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    headers.insert(X_REQUEST_ID, request_id.clone());
    if error.is_temporary() {
        headers.insert(header::RETRY_AFTER, RETRY_AFTER);
    }
    if error == Error::MethodNotAllowed {
        // RFC 9110 §15.5.6: a 405 lists what is allowed.
        headers.insert(header::ALLOW, ALLOWED);
    }
    response
}

/// The answer as the bytes of an HTTP/1.1 message that ends the connection, for requests that never became one.
pub(super) fn raw(error: Error, request_id: &str) -> Bytes {
    let status = error.status();
    let body = render(Form::Text, error, request_id);
    let date = httpdate::fmt_http_date(std::time::SystemTime::now());
    let head = format!(
        "HTTP/1.1 {} {}\r\ncontent-type: {}\r\ncontent-length: {}\r\ndate: {date}\r\nx-request-id: {request_id}\r\nserver: \
         pierhead\r\nconnection: close\r\n\r\n",
        status.as_str(),
        status.canonical_reason().unwrap_or_default(),
        FORMS[0].1,
        body.len(),
    );
    [head.as_bytes(), &body].concat().into()
}

fn render(form: Form, error: Error, request_id: &str) -> Bytes {
    let status = error.status();
    let (code, title, reason) = (status.as_u16(), status.canonical_reason().unwrap_or("Error"), error.label());
    match form {
        Form::Text => format!("{code} {title}: {error}\nreason: {reason}\nrequest id: {request_id}\n"),
        Form::Html => format!(
            "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>{code} {title}</title>\n<h1>{code} \
             {title}</h1>\n<p>{}</p>\n<p><small>reason: {reason}<br>request id: {}</small></p></html>\n",
            escape_html(&error.to_string()),
            escape_html(request_id),
        ),
        Form::Problem => {
            let problem = serde_json::json!({
                "type": "about:blank", "title": title, "status": code, "detail": error.to_string(),
                "reason": reason, "requestId": request_id,
            });
            format!("{problem}\n")
        }
    }
    .into()
}

fn escape_html(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The form the client likes best (RFC 9110 §12.5.1); text when it does not care or wants none of ours.
fn preferred(accept: Option<&HeaderValue>) -> (Form, &'static str) {
    let accept = accept.and_then(|value| value.to_str().ok()).unwrap_or_default();
    let ranges: Vec<(&str, u16)> = accept.split(',').map(range).collect();
    let mut best = (0, (FORMS[0].0, FORMS[0].1));
    for (form, content_type, names) in FORMS {
        let quality = names.iter().map(|name| quality(&ranges, name)).max().unwrap_or(0);
        if quality > best.0 {
            best = (quality, (form, content_type));
        }
    }
    best.1
}

/// A media range and its quality in thousandths.
fn range(text: &str) -> (&str, u16) {
    let mut parts = text.split(';').map(str::trim);
    let name = parts.next().unwrap_or_default();
    let quality = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
    (name, quality.map_or(1000, thousandths))
}

/// `qvalue` of RFC 9110 §12.4.2 in thousandths; zero for what is none.
fn thousandths(text: &str) -> u16 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let valid = fraction.len() <= 3 && fraction.bytes().all(|b| b.is_ascii_digit());
    match (whole, valid) {
        ("1", true) => 1000,
        ("0", true) => format!("{fraction:0<3}").parse().unwrap_or(0),
        _ => 0,
    }
}

/// The quality of a media type: that of the most specific range that takes it.
fn quality(ranges: &[(&str, u16)], name: &str) -> u16 {
    let major = name.split('/').next().unwrap_or_default();
    let specificity = |range: &str| {
        if range.eq_ignore_ascii_case(name) {
            3
        } else if range.split_once('/').is_some_and(|(m, minor)| minor == "*" && m.eq_ignore_ascii_case(major)) {
            2
        } else {
            u8::from(range == "*/*")
        }
    };
    let matching = ranges.iter().map(|(range, quality)| (specificity(range), *quality));
    matching.filter(|(specificity, _)| *specificity > 0).max_by_key(|(s, _)| *s).map_or(0, |(_, quality)| quality)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_the_one_the_client_prefers() {
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        let cases = [
            (None, Form::Text),
            (Some("*/*"), Form::Text),
            (Some(browser), Form::Html),
            (Some("application/json"), Form::Problem),
            (Some("application/problem+json"), Form::Problem),
            (Some("application/*"), Form::Problem),
            (Some("text/html;q=0.2, application/json;q=0.9"), Form::Problem),
            (Some("text/html;q=0, */*;q=0.1"), Form::Text),
            (Some("TEXT/HTML"), Form::Html),
            (Some("image/png"), Form::Text),
            (Some("text/html;q=7, text/plain;q=0.001"), Form::Text),
            (Some(";;,q=,"), Form::Text),
        ];
        for (accept, expected) in cases {
            let value = accept.map(HeaderValue::from_static);
            assert_eq!(preferred(value.as_ref()).0, expected, "{accept:?}");
        }
    }

    #[test]
    fn every_form_tells_status_reason_and_request_id() {
        for form in [Form::Text, Form::Html, Form::Problem] {
            let body = render(form, Error::NoEndpoint, "id-7");
            let body = std::str::from_utf8(&body).unwrap();
            for part in ["503", "no_endpoint", "id-7", "has no endpoint"] {
                assert!(body.contains(part), "{part} in {body}");
            }
        }
        let problem: serde_json::Value =
            serde_json::from_slice(&render(Form::Problem, Error::NoRoute, "a\"b")).unwrap();
        assert_eq!((&problem["status"], &problem["requestId"]), (&404.into(), &"a\"b".into()));
    }

    #[test]
    fn a_raw_answer_is_a_whole_message_that_closes() {
        let raw = raw(Error::HeadTimeout, "id-7");
        let text = std::str::from_utf8(&raw).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 408 Request Timeout\r\n"));
        assert!(head.contains("\r\nconnection: close"));
        assert!(head.contains(&format!("\r\ncontent-length: {}\r\n", body.len())));
    }
}
