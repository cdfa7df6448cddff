//! Simulates every strategy beside one slow endpoint and writes what it finds into `docs/balancing.md` and
//! `docs/balancing.svg`: `cargo bench --bench balancing`.
//!
//! The simulated numbers are the same on every machine; what a choice costs is measured on this one.

mod chart;
mod simulation;

use std::{
    fmt::Write,
    fs,
    hint::black_box,
    num::{NonZeroU8, NonZeroU32},
    path::Path,
    sync::atomic::AtomicUsize,
    time::Instant,
};

use anyhow::{Context, Result};
use pierhead::balance::{Balancer, Candidates, Draw, Member, Strategy};

use self::{
    chart::{Panel, Row},
    simulation::{SLOWER, Scenario, WORKERS},
};

const SIZES: [usize; 4] = [16, 100, 1000, 5000];
const QUANTILES: [f64; 3] = [0.5, 0.99, 0.999];

fn main() -> Result<()> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let (mut tables, mut panels) = (String::new(), Vec::new());
    for (workers, title) in [(Some(WORKERS), "With a queue"), (None, "Without a queue")] {
        writeln!(tables, "**{title}**, latency in milliseconds:\n")?;
        tables.push_str("| Endpoints | Strategy | Share of the slow one | of a fair share | p50 | p99 | p99.9 |\n");
        tables.push_str("|---|---|---|---|---|---|---|\n");
        for endpoints in SIZES {
            let rows = simulate(endpoints, workers, &mut tables)?;
            panels.push(Panel { title: format!("{endpoints} endpoints, {}", title.to_lowercase()), rows });
        }
        tables.push('\n');
    }
    let page = docs.join("balancing.md");
    let text = fs::read_to_string(&page).context("docs/balancing.md")?;
    let text = replace(&text, "simulation", &tables)?;
    let text = replace(&text, "cost", &costs()?)?;
    fs::write(page, text)?;
    fs::write(docs.join("balancing.svg"), chart::draw(&panels)?)?;
    Ok(())
}

fn strategies() -> Result<[(&'static str, Strategy); 6]> {
    let choices = NonZeroU8::new(2).context("two is not zero")?;
    Ok([
        ("RoundRobin", Strategy::RoundRobin),
        ("Random", Strategy::Random),
        ("LeastRequest", Strategy::LeastRequest { choices }),
        ("PeakEwma", Strategy::PeakEwma { choices }),
        ("ConsistentHash", Strategy::ConsistentHash { bounded_load: NonZeroU32::new(125) }),
        ("Maglev", Strategy::Maglev),
    ])
}

/// Adds a row of the table for each strategy.
fn simulate(endpoints: usize, workers: Option<u32>, table: &mut String) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (name, strategy) in strategies()? {
        let seconds = if endpoints > 1000 { 8 } else { 20 }; // millions of requests are enough
        let scenario = Scenario { endpoints, workers, slow: 0.0..f64::INFINITY, fault: SLOWER, seconds, warm_up: 5 };
        let outcome = simulation::run(&scenario, strategy);
        let [p50, p99, p999] = QUANTILES.map(|part| outcome.quantile(part));
        let (share, fair) = (outcome.slow_share() * 100.0, 100.0 / f64::from(u32::try_from(endpoints)?));
        writeln!(
            table,
            "| {endpoints} | {name} | {share:.4} % | {:.0} % | {p50:.0} | {p99:.0} | {p999:.0} |",
            share / fair * 100.0
        )?;
        eprintln!("{endpoints} {name}: {share:.4} % {p50:.1} {p99:.1} {p999:.1}");
        rows.push(Row { name, quantiles: [p50, p99, p999] });
    }
    Ok(rows)
}

/// What is between the markers of this name, replaced.
fn replace(page: &str, name: &str, content: &str) -> Result<String> {
    let (begin, end) = (format!("<!-- {name}: begin -->\n"), format!("<!-- {name}: end -->"));
    let missing = || format!("docs/balancing.md has no {begin}");
    let (before, rest) = page.split_once(&begin).with_context(missing)?;
    let (_, after) = rest.split_once(&end).with_context(missing)?;
    Ok(format!("{before}{begin}{}\n{end}{after}", content.trim_end()))
}

struct Idle;

impl Candidates for Idle {
    fn is_open(&self, _: usize) -> bool {
        true
    }
    fn in_flight(&self, _: usize) -> u32 {
        0
    }
    fn latency(&self, _: usize) -> f32 {
        1.0
    }
    fn ramp(&self, _: usize) -> f32 {
        1.0
    }
}

/// A table of what it takes to prepare a strategy and to choose by it.
fn costs() -> Result<String> {
    let mut table = String::from(
        "| Strategy | prepare 16, ms | prepare 5,000, ms | choose of 16, ns | choose of 5,000, ns |\n|---|---|---|---|---|\n",
    );
    for (name, strategy) in strategies()? {
        let [(build, choose), (build_large, choose_large)] = [16, 5000].map(|endpoints| cost(strategy, endpoints));
        writeln!(table, "| {name} | {build:.2} | {build_large:.2} | {choose:.0} | {choose_large:.0} |")?;
    }
    Ok(table)
}

/// Milliseconds to prepare, and nanoseconds to choose.
fn cost(strategy: Strategy, endpoints: u64) -> (f64, f64) {
    const CHOICES: u32 = 1_000_000;
    let member = |n: u64| Member { identity: hash(n), weight: 1 };
    let start = Instant::now();
    let balancer = Balancer::build(strategy, (0..endpoints).map(member).collect());
    let build = start.elapsed();
    let (turn, start) = (AtomicUsize::new(0), Instant::now());
    for n in 0..CHOICES {
        let draw = Draw { turn: &turn, key: Some(hash(n.into())), total_in_flight: 0 };
        black_box(balancer.choose(&Idle, draw));
    }
    (build.as_secs_f64() * 1e3, start.elapsed().as_secs_f64() * 1e9 / f64::from(CHOICES))
}

fn hash(n: u64) -> u64 {
    xxhash_rust::xxh3::xxh3_64(&n.to_be_bytes())
}
