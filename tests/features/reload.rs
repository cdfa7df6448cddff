//! Manifests that change while traffic flows.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http_body_util::Full;
use tokio::{net::TcpStream, task::JoinHandle};

use crate::support::{
    backend::Backend,
    client::{self, Answer, get, request},
    eventually,
    manifests::{ingress, service},
    pierhead::{Pierhead, Setup},
};

/// Requests on keep-alive connections until it is stopped; every answer is checked.
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts `clients` connections that each ask for `path` again and again and open a new connection when the server
    /// has announced the end of theirs.
    pub fn start(address: SocketAddr, clients: usize, path: &'static str) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let clients = (0..clients)
            .map(|_| {
                let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
                tokio::spawn(async move {
                    let mut sender = None;
                    while !stop.load(Ordering::SeqCst) {
                        let mut connection = match sender.take() {
                            Some(connection) => connection,
                            None => match TcpStream::connect(address).await {
                                Ok(stream) => client::http1::<Full<Bytes>>(stream).await,
                                // Only a process that has stopped accepting refuses.
                                Err(_) => return,
                            },
                        };
                        let request = request("a.example", path).body(Full::default()).unwrap();
                        let response = connection.send_request(request).await.expect("a request was lost");
                        let announced_end = response.headers().get("connection").is_some_and(|value| value == "close");
                        let answer = Answer::read(response).await.expect("a response was cut");
                        assert_eq!(answer.status, 200, "{answer:?}");
                        answered.fetch_add(1, Ordering::SeqCst);
                        sender = (!announced_end).then_some(connection);
                    }
                })
            })
            .collect();
        Self { stop, answered, clients }
    }

    /// Waits until this many more requests have been answered.
    pub async fn goes_on(&self, requests: usize) {
        let goal = self.answered.load(Ordering::SeqCst) + requests;
        eventually("load", async || {
            assert!(self.clients.iter().all(|client| !client.is_finished()), "a client has failed");
            (self.answered.load(Ordering::SeqCst) >= goal).then_some(())
        })
        .await;
    }

    /// Stops; fails the test when any request was lost.
    pub async fn stop(self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        for client in self.clients {
            client.await.unwrap();
        }
        self.answered.load(Ordering::SeqCst)
    }
}

fn all_to(endpoints: &[SocketAddr]) -> String {
    ingress("main").host("a.example").prefix("/", "one").to_string() + &service("one", endpoints)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_under_load_loses_no_request() {
    let (one, two) = (Backend::start("one").await, Backend::start("two").await);
    let pierhead = Pierhead::serving(all_to(&[one.address])).await;
    let load = Load::start(pierhead.http, 4, "/x");
    load.goes_on(50).await;
    for endpoints in [&[two.address][..], &[one.address, two.address], &[one.address], &[two.address]] {
        pierhead.write(all_to(endpoints));
        load.goes_on(50).await;
    }
    eventually("the last configuration", async || {
        (get(pierhead.http, "a.example", "/x").await.backend() == "two").then_some(())
    })
    .await;
    load.stop().await;
}

#[tokio::test]
async fn a_broken_file_keeps_the_last_good_configuration() {
    let one = Backend::start("one").await;
    let pierhead = Pierhead::serving(all_to(&[one.address])).await;
    let before = pierhead.log().len();
    pierhead.write("apiVersion: [this is\n  not: YAML");
    eventually("the complaint", async || {
        let log = pierhead.log();
        log[before..].iter().find(|line| line["level"] == "ERROR" || line["level"] == "WARN").cloned()
    })
    .await;
    assert_eq!(get(pierhead.http, "a.example", "/").await.backend(), "one");
    let two = Backend::start("two").await;
    pierhead.write(all_to(&[two.address]));
    eventually("the repaired file", async || {
        (get(pierhead.http, "a.example", "/").await.backend() == "two").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_bad_object_loses_its_own_rule_only() {
    let one = Backend::start("one").await;
    let bad = "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: bad, namespace: default}\nspec: \
               {rules: 7}\n---\n";
    let pierhead = Pierhead::serving(bad.to_owned() + &all_to(&[one.address])).await;
    assert_eq!(get(pierhead.http, "a.example", "/").await.backend(), "one");
    pierhead.told("the bad object", |line| line["reason"] == "Malformed").await;
}

#[tokio::test]
async fn a_removed_rule_is_404_from_then_on() {
    let one = Backend::start("one").await;
    let rules = ingress("main").host("a.example").prefix("/stays", "one");
    let service = service("one", &[one.address]);
    let before = rules.clone().prefix("/goes", "one").to_string() + &service;
    let pierhead = Setup::default().manifests(before).start().await;
    assert_eq!(get(pierhead.http, "a.example", "/goes").await.status, 200);
    pierhead.write(rules.to_string() + &service);
    eventually("404", async || (get(pierhead.http, "a.example", "/goes").await.status == 404).then_some(())).await;
    assert_eq!(get(pierhead.http, "a.example", "/stays").await.status, 200);
}
