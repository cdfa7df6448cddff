//! A backend that is offered three times what it can do.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::AsyncWriteExt as _,
    sync::Semaphore,
    time::{Instant, sleep},
};

use crate::support::{
    backend::scripted, client::read_head, manifests::governed, open_loop::OpenLoop, pierhead::Pierhead, spread::real,
};

const WORKERS: usize = 8;
const SERVICE: Duration = Duration::from_millis(250);
/// Requests a second: the workers can do 32.
const OFFERED: usize = 100;
/// Requests before those that are measured: the limit is found.
const WARM_UP: usize = 800;
const MEASURED: usize = 1200;

/// Workers that serve one request each at a time, whatever queues for them.
struct Workers {
    free: Semaphore,
    /// When each request was done, and how long it took a worker.
    done: Mutex<Vec<(Instant, Duration)>>,
}

impl Workers {
    async fn work(&self) {
        let _worker = self.free.acquire().await;
        let began = Instant::now();
        sleep(SERVICE).await;
        self.done.lock().unwrap().push((Instant::now(), began.elapsed()));
    }

    /// Mean time of a worker for a request in this stretch, in seconds: the machine may be slower than the clock.
    fn service(&self, from: Instant, to: Instant) -> f64 {
        let done = self.done.lock().unwrap();
        let of: Vec<_> = done.iter().filter(|(at, _)| (from..to).contains(at)).map(|(_, took)| *took).collect();
        of.iter().sum::<Duration>().as_secs_f64() / real(of.len())
    }
}

/// What came of the overload, by what the workers could have done in the same time.
#[derive(Debug)]
struct Figures {
    /// Requests offered, of those that the workers could do.
    offered: f64,
    /// Requests answered with 200, of those that the workers could do.
    goodput: f64,
    /// 99th percentile of the latency of requests answered with 200, in service times.
    p99: f64,
}

async fn overload(spec: &str) -> Figures {
    let workers = Arc::new(Workers { free: Semaphore::new(WORKERS), done: Mutex::default() });
    let served = Arc::clone(&workers);
    let backend = scripted(move |mut stream, _| {
        let workers = Arc::clone(&served);
        async move {
            while !read_head(&mut stream).await.is_empty() {
                workers.work().await;
                let _gone = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            }
        }
    })
    .await;
    let pierhead = Pierhead::serving(governed(&[backend], spec)).await;
    let load = OpenLoop::start(pierhead.http, OFFERED, "/x");
    load.reaches(WARM_UP).await;
    let (from, before) = (Instant::now(), load.offered());
    load.reaches(WARM_UP + MEASURED).await;
    let (to, offered) = (Instant::now(), load.offered() - before);
    let mut latencies: Vec<f64> = load.so_far(|outcomes| {
        assert!(outcomes.iter().all(|outcome| [200, 503].contains(&outcome.status)));
        let good = outcomes.iter().filter(|outcome| outcome.status == 200);
        let within = good.filter(|outcome| (from..to).contains(&(outcome.sent + outcome.took)));
        within.map(|outcome| outcome.took.as_secs_f64()).collect()
    });
    latencies.sort_by(f64::total_cmp);
    let service = workers.service(from, to);
    let capacity = (to - from).as_secs_f64() * real(WORKERS) / service;
    Figures {
        offered: real(offered) / capacity,
        goodput: real(latencies.len()) / capacity,
        p99: latencies[latencies.len() * 99 / 100] / service,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_an_adaptive_limit_the_backend_stays_busy_and_latency_bounded() {
    let (with, without) = tokio::join!(overload("limits: {adaptive: true}"), overload("limits: {}"));
    eprintln!("with a limit {with:?}, without {without:?}");
    assert!(with.offered >= 3.0, "{with:?}");
    assert!(with.goodput >= 0.9, "{with:?}");
    assert!(with.p99 < 5.0 && with.p99 * 2.0 < without.p99, "with {with:?}, without {without:?}");
}
