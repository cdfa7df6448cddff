//! The form that answers of our own have.

use http_body_util::Full;

use crate::support::{
    backend::refusing,
    client::{Answer, get, request, send},
    manifests::{ingress, service},
    pierhead::Pierhead,
};

async fn asking(pierhead: &Pierhead, accept: &str, path: &str) -> Answer {
    let request = request("a.example", path).header("accept", accept).header("x-request-id", "id-7");
    send(pierhead.http, request.body(Full::default()).unwrap()).await
}

#[tokio::test]
async fn answers_come_in_the_form_that_accept_prefers() {
    let pierhead = Pierhead::serving(ingress("main").host("a.example").prefix("/", "gone")).await;
    for (accept, form) in [
        ("application/problem+json", "application/problem+json"),
        ("application/json", "application/problem+json"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "text/html"),
        ("text/plain", "text/plain"),
        ("text/html;q=0.1, application/problem+json;q=0.9", "application/problem+json"),
    ] {
        let answer = asking(&pierhead, accept, "/").await;
        assert_eq!(answer.status, 503);
        assert!(answer.header("content-type").starts_with(form), "{accept}: {answer:?}");
        assert!(answer.text().contains("id-7"), "the request id is in the message: {answer:?}");
        assert!(answer.text().contains("503"), "{answer:?}");
    }
}

#[tokio::test]
async fn problem_json_is_that_of_rfc_9457() {
    let pierhead = Pierhead::serving(ingress("main").host("a.example").prefix("/x", "gone")).await;
    let answer = asking(&pierhead, "application/problem+json", "/none").await;
    let problem = answer.json();
    assert_eq!(problem["status"], 404);
    for member in ["type", "title", "detail"] {
        assert!(problem[member].is_string(), "{member} in {problem}");
    }
}

#[tokio::test]
async fn answers_name_no_internal_address() {
    let (address, _held) = refusing();
    let pierhead = Pierhead::serving(
        ingress("main").host("a.example").prefix("/", "one").to_string() + &service("one", &[address]),
    )
    .await;
    for accept in ["application/problem+json", "text/html", "text/plain"] {
        let answer = asking(&pierhead, accept, "/").await;
        assert_eq!(answer.status, 502);
        assert!(!answer.text().contains("127.0.0.1"), "{answer:?}");
    }
}

#[tokio::test]
async fn an_answer_has_date_and_server_and_request_id() {
    let pierhead = Pierhead::serving(ingress("main").host("a.example").prefix("/x", "gone")).await;
    let answer = get(pierhead.http, "a.example", "/").await;
    assert!(answer.header("date").ends_with(" GMT"));
    assert_eq!(answer.header("server"), "pierhead");
    assert!(!answer.header("x-request-id").is_empty());
}
