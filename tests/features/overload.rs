//! A backend that is offered more than it can do.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use crate::support::{
    backend::scripted,
    client::{Answer, http1, read_head, request},
    manifests::governed,
    pierhead::Pierhead,
};

const WORKERS: usize = 8;
const SERVICE: Duration = Duration::from_millis(200);
/// So many clients that pause so long after a refusal offer about three times what the workers can do.
const CLIENTS: usize = 60;
const PAUSE: Duration = Duration::from_millis(500);
const WARM_UP: Duration = Duration::from_secs(4);
const MEASURED: Duration = Duration::from_secs(5);

/// With an adaptive limit the workers stay busy and who is let in is served soon; 60 clients in the queue of eight
/// workers would each wait 1.5 s.
#[tokio::test]
async fn with_an_adaptive_limit_the_backend_stays_busy_and_latency_bounded() {
    let workers = Arc::new(Semaphore::new(WORKERS));
    let busy = Arc::new(AtomicU64::new(0)); // microseconds over all workers
    let counted = Arc::clone(&busy);
    let backend = scripted(move |mut stream, _| {
        let (workers, busy) = (Arc::clone(&workers), Arc::clone(&counted));
        async move {
            while !read_head(&mut stream).await.is_empty() {
                let worker = workers.acquire().await;
                let began = Instant::now();
                sleep(SERVICE).await;
                busy.fetch_add(microseconds(began.elapsed()), Ordering::SeqCst);
                drop(worker);
                let _gone = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            }
        }
    })
    .await;
    let pierhead = Pierhead::serving(governed(&[backend], "limits: {adaptive: true}")).await;
    let start = Instant::now();
    let (measured, end) = (start + WARM_UP, start + WARM_UP + MEASURED);
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let mut sender = http1(TcpStream::connect(pierhead.http).await.unwrap()).await;
        clients.spawn(async move {
            let mut latencies = Vec::new();
            while Instant::now() < end {
                sender.ready().await.unwrap();
                let asked = Instant::now();
                let request = request("a.example", "/").body(Full::<Bytes>::default()).unwrap();
                let answer = Answer::read(sender.send_request(request).await.unwrap()).await.unwrap();
                match answer.status {
                    200 if asked >= measured => latencies.push(asked.elapsed()),
                    200 => {}
                    503 => sleep(PAUSE).await,
                    other => panic!("{other}"),
                }
            }
            latencies
        });
    }
    sleep_until(measured).await;
    let before = busy.load(Ordering::SeqCst);
    sleep_until(end).await;
    let busy = busy.load(Ordering::SeqCst) - before;
    let mut latencies: Vec<Duration> = clients.join_all().await.into_iter().flatten().collect();
    latencies.sort_unstable();
    let p99 = latencies[latencies.len() * 99 / 100];
    let percent = busy * 100 / (microseconds(measured.elapsed().min(MEASURED)) * WORKERS as u64);
    assert!(percent >= 75, "the workers are busy for {percent} % of the time only");
    assert!(p99 < Duration::from_millis(1200), "{p99:?}");
}

fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap()
}
