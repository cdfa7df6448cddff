//! Many objects: no request for a known host finds nothing after readiness.

use std::time::Instant;

use futures_util::{StreamExt, stream};

use crate::support::{Cases, Cluster, ingress};

/// How many Ingresses there are before the start.
const INGRESSES: usize = 2_000;

/// All of them.
pub(crate) async fn cases(cluster: &Cluster, cases: &mut Cases) {
    cases.run("start_with_2000_ingresses_without_a_404", start(cluster)).await;
}

async fn start(cluster: &Cluster) {
    let mut scene = cluster.scene().await;
    scene.backends(&["a"]).await;
    let host = |number: usize| scene.host(&format!("host-{number}"));
    let created = Instant::now();
    stream::iter(0..INGRESSES)
        .for_each_concurrent(64, |number| {
            let object = ingress(&format!("front-{number}")).host(&host(number)).prefix("/", "a:80");
            let scene = &scene;
            async move {
                scene.apply(object).await;
            }
        })
        .await;
    println!("  {INGRESSES} Ingresses created in {:.1} s", created.elapsed().as_secs_f64());
    let started = Instant::now();
    let pierhead = cluster.spawn("scale", 0, &["--publish-address=192.0.2.1"]);
    // From the first answer on, every known host has its route.
    let mut early = 0;
    let ready = async { pierhead.ready().await };
    let asking = async {
        for number in (0..).map(|turn: usize| turn * 7 % INGRESSES) {
            match pierhead.get(&host(number), "/").await {
                Ok(reply) => assert_eq!((reply.status, reply.backend.as_str()), (200, "a"), "host {number}"),
                Err(_) => early += 1,
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = ready => {}
        () = asking => {}
    }
    println!("  ready after {:.1} s; {early} requests came before the port took any", started.elapsed().as_secs_f64());
    for number in 0..INGRESSES {
        let reply = pierhead.get(&host(number), "/").await.expect("an answer");
        assert_eq!((reply.status, reply.backend.as_str()), (200, "a"), "host {number}");
    }
    // One more is live as quickly as with few.
    let changed = Instant::now();
    scene.apply(ingress("one-more").host(&scene.host("more")).prefix("/", "a:80")).await;
    pierhead.answers(&scene.host("more"), "/", "a").await;
    println!("  a change was live after {:.0} ms", changed.elapsed().as_secs_f64() * 1_000.0);
    pierhead.stop().await;
}
