//! HTTP/2 in and out, with trailers and as gRPC uses it.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body_util::{Full, StreamBody};
use hyper::body::Frame;
use tokio::net::TcpStream;

use crate::support::{
    backend::{Backend, replies},
    client::{self, Answer, h2_request},
    manifests::{ingress, service, service_with},
    pierhead::Pierhead,
    soon,
    tls::connect,
};

fn all_to_one() -> String {
    ingress("main").host("a.example").prefix("/", "one").to_string()
}

#[tokio::test]
async fn h2_comes_in_by_alpn() {
    let one = Backend::start("one").await;
    let pierhead = Pierhead::serving(all_to_one() + &service("one", &[one.address])).await;
    let mut sender = client::http2::<Full<Bytes>>(connect(pierhead.https, "a.example", &["h2"]).await).await;
    let request = h2_request("https", "a.example", "/x?q=1").body(Full::from("hello")).unwrap();
    let answer = Answer::read(soon("answer", sender.send_request(request)).await.unwrap()).await.unwrap();
    let seen = answer.json();
    assert_eq!((&seen["path"], &seen["body"], &seen["version"]), (&"/x?q=1".into(), &5.into(), &"HTTP/1.1".into()));
    assert_eq!(answer.seen("host"), ["a.example"]);
    assert_eq!(pierhead.logged_path("/x").await["protocol"], "HTTP/2");
}

#[tokio::test]
async fn h2c_comes_in_by_prior_knowledge() {
    let one = Backend::start("one").await;
    let pierhead = Pierhead::serving(all_to_one() + &service("one", &[one.address])).await;
    let stream = TcpStream::connect(pierhead.http).await.unwrap();
    let mut sender = client::http2::<Full<Bytes>>(stream).await;
    for path in ["/1", "/2"] {
        let request = h2_request("http", "a.example", path).body(Full::default()).unwrap();
        let answer = Answer::read(soon("answer", sender.send_request(request)).await.unwrap()).await.unwrap();
        assert_eq!(answer.json()["path"], path);
    }
}

#[tokio::test]
async fn streams_of_one_connection_do_not_wait_for_each_other() {
    let one = Backend::start("one").await;
    let pierhead = Pierhead::serving(all_to_one() + &service("one", &[one.address])).await;
    let stream = TcpStream::connect(pierhead.http).await.unwrap();
    let mut sender = client::http2::<Full<Bytes>>(stream).await;
    let slow = sender.send_request(h2_request("http", "a.example", "/slow").body(Full::default()).unwrap());
    let slow = tokio::spawn(slow);
    one.waits_for(1).await;
    let quick = sender.send_request(h2_request("http", "a.example", "/quick").body(Full::default()).unwrap());
    assert_eq!(soon("quick answer", quick).await.unwrap().status(), 200);
    one.release();
    assert_eq!(soon("slow answer", slow).await.unwrap().unwrap().status(), 200);
}

#[tokio::test]
async fn app_protocol_h2c_goes_out_as_h2c() {
    let one = Backend::h2c("one").await;
    let service = service_with("one", "appProtocol: kubernetes.io/h2c", &[one.address]);
    let pierhead = Pierhead::serving(all_to_one() + &service).await;
    let answer = client::get(pierhead.http, "a.example", "/x").await;
    assert_eq!(answer.json()["version"], "HTTP/2.0");
    assert_eq!(answer.seen("x-forwarded-for"), ["127.0.0.1"]);
    for _ in 0..4 {
        assert_eq!(client::get(pierhead.http, "a.example", "/x").await.status, 200);
    }
    assert!(one.connections() <= 2, "requests share a connection for each thread, not {}", one.connections());
}

/// A unary gRPC call: content type, message in the body, `te: trailers`, status in trailers.
#[tokio::test]
async fn grpc_passes_end_to_end() {
    for app_protocol in ["kubernetes.io/h2c", "grpc"] {
        let one = Backend::h2c("one").await;
        let service = service_with("one", &format!("appProtocol: {app_protocol}"), &[one.address]);
        let pierhead = Pierhead::serving(all_to_one() + &service).await;
        let mut sender = client::http2::<Full<Bytes>>(connect(pierhead.https, "a.example", &["h2"]).await).await;
        let message = Bytes::from_static(b"\0\0\0\0\x05hello");
        let request = h2_request("https", "a.example", "/trailers/echo.Echo/Say")
            .method("POST")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(message.clone()))
            .unwrap();
        let answer = Answer::read(soon("answer", sender.send_request(request)).await.unwrap()).await.unwrap();
        assert_eq!((answer.status, &answer.body), (200, &message));
        assert_eq!(answer.trailers.unwrap()["grpc-status"], "0");
        let seen = &one.seen()[0];
        assert_eq!(client::seen_in(seen, "te"), ["trailers"]);
        assert_eq!(client::seen_in(seen, "content-type"), ["application/grpc"]);
    }
}

#[tokio::test]
async fn request_trailers_reach_an_h2c_backend() {
    let one = Backend::h2c("one").await;
    let service = service_with("one", "appProtocol: kubernetes.io/h2c", &[one.address]);
    let pierhead = Pierhead::serving(all_to_one() + &service).await;
    let stream = TcpStream::connect(pierhead.http).await.unwrap();
    let mut sender = client::http2(stream).await;
    let trailers = HeaderMap::from_iter([("x-checksum".parse().unwrap(), HeaderValue::from_static("1"))]);
    let frames = [Frame::data(Bytes::from_static(b"hello")), Frame::trailers(trailers)];
    let body = StreamBody::new(futures_util::stream::iter(frames.map(Ok::<_, std::convert::Infallible>)));
    let request = h2_request("http", "a.example", "/x").method("POST").body(body).unwrap();
    let answer = Answer::read(soon("answer", sender.send_request(request)).await.unwrap()).await.unwrap();
    let seen = answer.json();
    assert_eq!((&seen["body"], seen["trailers"].to_string()), (&5.into(), r#"[["x-checksum","1"]]"#.to_owned()));
}

#[tokio::test]
async fn trailers_of_an_http_1_backend_reach_an_h2_client() {
    let one = Backend::start("one").await;
    let pierhead = Pierhead::serving(all_to_one() + &service("one", &[one.address])).await;
    let mut sender = client::http2::<Full<Bytes>>(connect(pierhead.https, "a.example", &["h2"]).await).await;
    let request = h2_request("https", "a.example", "/trailers").header("te", "trailers").body(Full::from("x")).unwrap();
    let answer = Answer::read(soon("answer", sender.send_request(request)).await.unwrap()).await.unwrap();
    assert_eq!(answer.trailers.unwrap()["grpc-status"], "0");
}

#[tokio::test]
async fn a_response_cut_after_its_head_is_a_stream_error() {
    let address = replies(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart", false).await;
    let pierhead = Pierhead::serving(all_to_one() + &service("one", &[address])).await;
    let stream = TcpStream::connect(pierhead.http).await.unwrap();
    let mut sender = client::http2::<Full<Bytes>>(stream).await;
    let request = h2_request("http", "a.example", "/cut").body(Full::default()).unwrap();
    let response = soon("head", sender.send_request(request)).await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(soon("stream error", Answer::read(response)).await.is_err());
}

#[tokio::test]
async fn a_stream_that_the_client_resets_cancels_its_attempt() {
    let one = Backend::start("one").await;
    let pierhead = Pierhead::serving(all_to_one() + &service("one", &[one.address])).await;
    let stream = TcpStream::connect(pierhead.http).await.unwrap();
    let mut sender = client::http2::<Full<Bytes>>(stream).await;
    let request = h2_request("http", "a.example", "/slow/reset").body(Full::default()).unwrap();
    let waiting = tokio::spawn(sender.send_request(request));
    one.waits_for(1).await;
    waiting.abort();
    one.waits_for(0).await;
    assert_eq!(pierhead.logged_path("/slow/reset").await["status"], 499);
}

/// RFC 9113 §6.5: the server's first frame is SETTINGS; parameter 3 is `SETTINGS_MAX_CONCURRENT_STREAMS`.
#[tokio::test]
async fn settings_allow_128_streams() {
    let one = Backend::start("one").await;
    let pierhead = Pierhead::serving(all_to_one() + &service("one", &[one.address])).await;
    let mut client = client::Raw::connect(pierhead.http).await;
    client.write("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\u{4}\0\0\0\0\0").await;
    let head = client.exactly(9).await;
    assert_eq!(head[3], 4, "a SETTINGS frame");
    let settings = client.exactly(usize::from(head[1]) << 8 | usize::from(head[2])).await;
    let streams = settings.chunks(6).find(|setting| setting[..2] == [0, 3]).unwrap();
    assert_eq!(streams[2..], [0, 0, 0, 128]);
}

/// RFC 9113 §8.2.3: browsers send cookies in several fields; an HTTP/1.1 backend gets one.
#[tokio::test]
async fn cookie_crumbs_reach_an_http_1_backend_as_one_field() {
    let one = Backend::start("one").await;
    let pierhead = Pierhead::serving(all_to_one() + &service("one", &[one.address])).await;
    let mut sender = client::http2::<Full<Bytes>>(TcpStream::connect(pierhead.http).await.unwrap()).await;
    let request = client::h2_request("http", "a.example", "/x").header("cookie", "a=1").header("cookie", "b=2");
    let response = sender.send_request(request.body(Full::default()).unwrap()).await.unwrap();
    let answer = client::Answer::read(response).await.unwrap();
    assert_eq!(answer.seen("cookie"), ["a=1; b=2"]);
}
