//! What a gRPC call that failed at once means to those who know HTTP only: outlier detection and retries.
//!
//! Such a response is a 200 whose head carries the status (Trailers-Only in "gRPC over HTTP2"). A status that comes after
//! messages is passed on unread.

use http::{HeaderMap, Response, StatusCode, Version};

/// The HTTP status that the response stands for; its own when it is not of a gRPC call.
pub(super) fn status<B>(response: &Response<B>) -> u16 {
    let is_ok = response.version() == Version::HTTP_2 && response.status() == StatusCode::OK;
    let of_call = is_ok.then(|| of_call(response.headers())).flatten();
    of_call.unwrap_or(response.status().as_u16())
}

/// As Envoy maps it (`Grpc::Utility::grpcToHttpStatus`).
fn of_call(headers: &HeaderMap) -> Option<u16> {
    let status = match headers.get("grpc-status")?.as_bytes() {
        b"0" => 200,                // OK
        b"1" => 499,                // CANCELLED
        b"3" | b"9" | b"11" => 400, // INVALID_ARGUMENT, FAILED_PRECONDITION, OUT_OF_RANGE
        b"4" => 504,                // DEADLINE_EXCEEDED
        b"5" => 404,                // NOT_FOUND
        b"6" | b"10" => 409,        // ALREADY_EXISTS, ABORTED
        b"7" => 403,                // PERMISSION_DENIED
        b"8" => 429,                // RESOURCE_EXHAUSTED
        b"12" => 501,               // UNIMPLEMENTED
        b"14" => 503,               // UNAVAILABLE
        b"16" => 401,               // UNAUTHENTICATED
        _ => 500,                   // UNKNOWN, INTERNAL, DATA_LOSS, and what nobody knows
    };
    Some(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_failed_at_once_stands_for_a_status_of_http() {
        let response = |version, status: u16, grpc: Option<&'static str>| {
            let mut response = Response::builder().version(version).status(status);
            if let Some(grpc) = grpc {
                response = response.header("grpc-status", grpc);
            }
            self::status(&response.body(()).unwrap())
        };
        let cases = [
            ("0", 200),
            ("1", 499),
            ("2", 500),
            ("3", 400),
            ("4", 504),
            ("5", 404),
            ("6", 409),
            ("7", 403),
            ("8", 429),
            ("9", 400),
            ("10", 409),
            ("11", 400),
            ("12", 501),
            ("13", 500),
            ("14", 503),
            ("15", 500),
            ("16", 401),
            ("17", 500),
            ("", 500),
        ];
        for (grpc, expected) in cases {
            assert_eq!(response(Version::HTTP_2, 200, Some(grpc)), expected, "grpc-status {grpc:?}");
        }
        assert_eq!(response(Version::HTTP_2, 200, None), 200);
        assert_eq!(response(Version::HTTP_2, 404, Some("14")), 404, "its own says more");
        assert_eq!(response(Version::HTTP_11, 200, Some("14")), 200, "gRPC is spoken over HTTP/2");
    }
}
