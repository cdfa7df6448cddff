//! What the process uses, as the kernel and the tokio runtimes tell it at the time of a scrape.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use procfs::process::LimitValue;
use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};
use tokio::runtime::RuntimeMetrics;

use super::{family::Family, table};

/// The process and its runtimes.
#[derive(Debug, Default)]
pub(super) struct System {
    runtimes: Mutex<Vec<(&'static str, RuntimeMetrics)>>,
}

/// What the kernel says of the process.
struct Usage {
    cpu_seconds: f64,
    resident_bytes: u64,
    virtual_bytes: u64,
    threads: u64,
    open_fds: u64,
    max_fds: Option<u64>,
    start_seconds: f64,
}

impl System {
    /// Tells of one more runtime from now on. Those of the same name are added up.
    pub(super) fn watch(&self, name: &'static str, runtime: RuntimeMetrics) {
        self.runtimes.lock().unwrap_or_else(PoisonError::into_inner).push((name, runtime));
    }

    fn runtimes(&self) -> [Family<'static>; 4] {
        let mut workers = table::RUNTIME_WORKERS.family();
        let mut tasks = table::RUNTIME_TASKS.family();
        let mut queue = table::RUNTIME_QUEUE.family();
        let mut busy = table::RUNTIME_BUSY.family();
        let runtimes = self.runtimes.lock().unwrap_or_else(PoisonError::into_inner);
        for name in ["control", "proxy"] {
            let of_name = || runtimes.iter().filter(|(of, _)| *of == name).map(|(_, runtime)| runtime);
            if of_name().next().is_none() {
                continue;
            }
            let sum = |number: fn(&RuntimeMetrics) -> usize| of_name().map(number).sum::<usize>() as u64;
            workers.integer(&[name], sum(RuntimeMetrics::num_workers));
            tasks.integer(&[name], sum(RuntimeMetrics::num_alive_tasks));
            queue.integer(&[name], sum(RuntimeMetrics::global_queue_depth));
            let of_workers = |runtime: &RuntimeMetrics| {
                let workers = 0..runtime.num_workers();
                workers.map(|worker| runtime.worker_total_busy_duration(worker).as_secs_f64()).sum::<f64>()
            };
            busy.number(&[name], of_name().map(of_workers).sum());
        }
        [workers, tasks, queue, busy]
    }
}

impl Usage {
    fn read() -> Result<Self, procfs::ProcError> {
        let process = procfs::process::Process::myself()?;
        let stat = process.stat()?;
        let ticks = procfs::ticks_per_second();
        let seconds = |of_ticks: u64| {
            let micros = u128::from(of_ticks) * 1_000_000 / u128::from(ticks.max(1));
            std::time::Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX)).as_secs_f64()
        };
        let boot = std::time::Duration::from_secs(procfs::boot_time_secs()?).as_secs_f64();
        Ok(Self {
            cpu_seconds: seconds(stat.utime + stat.stime),
            resident_bytes: stat.rss * procfs::page_size(),
            virtual_bytes: stat.vsize,
            threads: u64::try_from(stat.num_threads).unwrap_or(0),
            open_fds: process.fd_count()? as u64,
            max_fds: match process.limits()?.max_open_files.soft_limit {
                LimitValue::Value(limit) => Some(limit),
                LimitValue::Unlimited => None,
            },
            start_seconds: boot + seconds(stat.starttime),
        })
    }

    fn families(&self) -> Vec<Family<'static>> {
        let mut families = Vec::new();
        for (metric, value) in [
            (&table::PROCESS_RESIDENT, Some(self.resident_bytes)),
            (&table::PROCESS_VIRTUAL, Some(self.virtual_bytes)),
            (&table::PROCESS_THREADS, Some(self.threads)),
            (&table::PROCESS_FDS, Some(self.open_fds)),
            (&table::PROCESS_MAX_FDS, self.max_fds),
        ] {
            let mut family = metric.family();
            if let Some(value) = value {
                family.integer(&[], value);
            }
            families.push(family);
        }
        for (metric, value) in [(&table::PROCESS_CPU, self.cpu_seconds), (&table::PROCESS_START, self.start_seconds)] {
            let mut family = metric.family();
            family.number(&[], value);
            families.push(family);
        }
        families
    }
}

impl Collector for System {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut build = table::BUILD.family();
        build.integer(&[env!("CARGO_PKG_VERSION")], 1);
        let mut families = vec![build];
        families.extend(self.runtimes());
        match Usage::read() {
            Ok(usage) => families.extend(usage.families()),
            Err(error) => tracing::debug!(%error, "the kernel does not tell what the process uses"),
        }
        families.iter().try_for_each(|family| family.encode(&mut encoder))
    }
}
