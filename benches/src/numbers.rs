//! The numbers of one round.

use crate::block_device::Requests;
use crate::load::Report;
use crate::process::Usage;

/// What one target did in one round; None for what it does not have.
#[derive(Clone, Copy, Debug, Default)]
pub struct Numbers {
    /// Reads and writes per second.
    pub iops: f64,
    /// 10^6 bytes per second.
    pub mbps: f64,
    /// Latency of reads and writes that half of all were faster than, microseconds.
    pub p50_us: f64,
    /// That 99 % were faster than.
    pub p99_us: f64,
    /// That 99.9 % were faster than.
    pub p999_us: f64,
    /// Longest time without any completion, microseconds.
    pub gap_us: f64,
    /// Latency of flushes that half of all were faster than, microseconds.
    pub flush_p50_us: Option<f64>,
    /// That 99 % were faster than.
    pub flush_p99_us: Option<f64>,
    /// CPU time of the daemon per read or write, microseconds; what it had put off included.
    pub cpu_us_per_io: Option<f64>,
    /// Bytes written to devices for each byte that was written.
    pub written: Option<f64>,
    /// Requests to the device for each read or write.
    pub device_requests: Option<f64>,
    /// Flushes of the device for each flush.
    pub device_flushes: Option<f64>,
}

/// A metric, as rows name it, with its unit.
pub type Metric = (&'static str, &'static str, fn(&Numbers) -> Option<f64>);

/// Every metric: the first two are one for random and one for sequential works.
pub const METRICS: [Metric; 12] = [
    ("iops", "1/s", |n| Some(n.iops)),
    ("mbps", "MB/s", |n| Some(n.mbps)),
    ("p50", "us", |n| Some(n.p50_us)),
    ("p99", "us", |n| Some(n.p99_us)),
    ("p999", "us", |n| Some(n.p999_us)),
    ("gap", "us", |n| Some(n.gap_us)),
    ("flush_p50", "us", |n| n.flush_p50_us),
    ("flush_p99", "us", |n| n.flush_p99_us),
    ("cpu_per_io", "us", |n| n.cpu_us_per_io),
    ("written", "B/B", |n| n.written),
    ("device_requests", "1/io", |n| n.device_requests),
    ("device_flushes", "1/flush", |n| n.device_flushes),
];

impl Numbers {
    /// Of a load, and what daemon and device had done before and after it.
    #[must_use]
    pub fn of(
        report: &Report,
        before: (Usage, Option<Requests>),
        after: (Usage, Option<Requests>),
    ) -> Numbers {
        let us = |ns: u64| ns as f64 / 1e3;
        let quantile = |q: f64| us(report.latency.quantile_ns(q));
        let flushes = report.flushes.total();
        let flush = |q: f64| (flushes > 0).then(|| us(report.flushes.quantile_ns(q)));
        let ios = report.ios.max(1) as f64;
        let device = before.1.zip(after.1);
        let written = after.0.written_bytes - before.0.written_bytes;
        Numbers {
            iops: report.iops(),
            mbps: report.mbps(),
            p50_us: quantile(0.5),
            p99_us: quantile(0.99),
            p999_us: quantile(0.999),
            gap_us: us(report.gap_ns),
            flush_p50_us: flush(0.5),
            flush_p99_us: flush(0.99),
            cpu_us_per_io: Some(us(after.0.cpu_ns - before.0.cpu_ns) / ios),
            written: (written > 0).then(|| written as f64 / report.bytes_written.max(1) as f64),
            device_requests: device.map(|(b, a)| (a.transfers - b.transfers) as f64 / ios),
            device_flushes: device
                .filter(|_| flushes > 0)
                .map(|(b, a)| (a.flushes - b.flushes) as f64 / flushes as f64),
        }
    }
}
