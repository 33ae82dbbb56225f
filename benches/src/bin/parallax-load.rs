//! `parallax-load SOCKET`: requests for any vhost-user-blk disk, and how they fared.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use parallax_benches::disk::Disk;
use parallax_benches::histogram::Histogram;
use parallax_benches::load::{Load, Order, Report, run};
use serde_json::{Value, json};
use vhost_parallax::control::api::size;

const QUEUES_MAX: u64 = 64;
const DEPTH_MAX: u64 = 256;
/// Of one request, bytes.
const BLOCK_BYTES_MAX: u64 = 16 << 20;

/// Keep requests in flight on a vhost-user-blk disk, and say how they fared.
///
/// What is on the disk is overwritten, unless --read is 100.
#[derive(Parser)]
#[command(
    version,
    after_help = "Example: random writes with a flush after every 16, on two queues:\n  \
                  parallax-load /run/parallax/vdi/web.sock --depth 32 --queues 2 --flush-every 16"
)]
struct Args {
    /// Socket of the disk
    socket: PathBuf,
    /// Bytes of a request, a multiple of 512
    #[arg(long, value_name = "SIZE", default_value = "4K", value_parser = block)]
    block: u64,
    /// Requests in flight on each queue
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=DEPTH_MAX))]
    depth: u64,
    /// Queues, each with a thread of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=QUEUES_MAX))]
    queues: u64,
    /// Share of reads; the rest are writes
    #[arg(long, value_name = "PERCENT", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=100))]
    read: u8,
    /// Which blocks, in which order
    #[arg(long, value_enum, default_value_t = Blocks::Random)]
    order: Blocks,
    /// Part of the disk that is used, from its start [default: all of it]
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    span: Option<u64>,
    /// A flush after so many requests
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    flush_every: Option<u32>,
    /// How long, for random and sequential requests
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    time: u64,
    /// Write zeros; else what cannot be compressed
    #[arg(long)]
    zeros: bool,
    /// The same seed, the same requests
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Blocks {
    /// At random, until the time is over
    Random,
    /// In order and from the start again, until the time is over
    Sequential,
    /// Each once, at random: first writes
    Once,
    /// Each once, in order
    Fill,
}

fn bytes(text: &str) -> Result<u64, String> {
    size::parse(text).map_err(|e| format!("{}\nhint: {}", e.message, e.hint))
}

fn block(text: &str) -> Result<u64, String> {
    match bytes(text)? {
        n if n > 0 && n <= BLOCK_BYTES_MAX && n.is_multiple_of(512) => Ok(n),
        _ => Err("a request has a multiple of 512 bytes, 16M at most".to_owned()),
    }
}

fn main() -> ExitCode {
    match load(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

fn load(args: &Args) -> io::Result<()> {
    let (block_bytes, depth, queues) = (args.block as usize, args.depth as usize, args.queues as usize);
    let memory_bytes = (block_bytes * depth).next_multiple_of(4096);
    let mut disk = Disk::connect(&args.socket, queues, memory_bytes)?;
    let span_bytes = args.span.unwrap_or(disk.capacity_bytes).min(disk.capacity_bytes);
    if span_bytes < args.block {
        return Err(io::Error::other(format!("{span_bytes} bytes of the disk have no room for one request")));
    }
    let order = match args.order {
        Blocks::Random => Order::Random,
        Blocks::Sequential => Order::Sequential,
        Blocks::Once => Order::Once,
        Blocks::Fill => Order::Fill,
    };
    let load = Load {
        queues,
        order,
        flush_every: args.flush_every,
        zeros: args.zeros,
        seed: args.seed,
        ..Load::random(args.read, depth, span_bytes, Duration::from_secs(args.time)).of_blocks(block_bytes)
    };
    let report = run(&mut disk, &load, &AtomicBool::new(false))?;
    match args.json {
        true => println!("{}", as_json(&report)),
        false => print(&report),
    }
    Ok(())
}

/// Of these quantiles, by their names.
const QUANTILES: [(&str, f64); 3] = [("p50", 0.5), ("p99", 0.99), ("p999", 0.999)];

fn us(ns: u64) -> f64 {
    ns as f64 / 1e3
}

fn latencies(h: &Histogram) -> Value {
    let mut all: serde_json::Map<String, Value> =
        QUANTILES.iter().map(|(name, q)| (format!("{name}_us"), json!(us(h.quantile_ns(*q))))).collect();
    all.insert("max_us".to_owned(), json!(us(h.max_ns())));
    all.insert("count".to_owned(), json!(h.total()));
    Value::Object(all)
}

fn as_json(r: &Report) -> Value {
    json!({
        "seconds": r.elapsed_ns as f64 / 1e9,
        "requests": r.ios,
        "bytes": r.bytes,
        "bytes_written": r.bytes_written,
        "iops": r.iops(),
        "mb_per_s": r.mbps(),
        "latency": latencies(&r.latency),
        "flushes": latencies(&r.flushes),
        "longest_gap_us": us(r.gap_ns),
    })
}

fn print(r: &Report) {
    let seconds = r.elapsed_ns as f64 / 1e9;
    println!("{:.0} requests a second, {:.1} MB/s, for {seconds:.1} s", r.iops(), r.mbps());
    for (what, h) in
        [("requests", &r.latency), ("flushes", &r.flushes)].into_iter().filter(|(_, h)| h.total() > 0)
    {
        let [p50, p99, p999] = QUANTILES.map(|(_, q)| us(h.quantile_ns(q)));
        println!(
            "{what}: p50 {p50:.1} us, p99 {p99:.1} us, p99.9 {p999:.1} us, longest {:.1} us, {} of them",
            us(h.max_ns()),
            h.total()
        );
    }
    println!("longest time without an answer: {:.1} us", us(r.gap_ns));
}
