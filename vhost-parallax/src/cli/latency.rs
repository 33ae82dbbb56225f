//! `parallax latency`.

use clap::{Args, ValueEnum};

use super::{Session, table, time};
use crate::control::api::error::Result;
use crate::control::api::{LatencyReport, LatencyRequest};

/// Measure how long requests take, and where
///
/// `on` begins anew, `off` ends; without either what was measured is shown. From the guest down: its reads, writes, flushes and
/// discards; writes that waited for room in the log (log-room); the devices of log and store; checkpoints. The time of a layer
/// is in that of the one above that waits for it. It costs a few clock readings for each request
/// while it is on, and nothing while it is off.
#[derive(Args)]
#[command(after_help = "Example:\n  parallax latency on\n  parallax latency")]
pub struct Latency {
    /// Begin anew, or end
    change: Option<Change>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Change {
    On,
    Off,
}

impl Latency {
    /// Run the verb.
    pub fn run(self, session: &mut Session) -> Result<()> {
        let report: LatencyReport = match self.change {
            None => session.daemon()?.get("/latency")?,
            Some(change) => {
                let request = LatencyRequest { enabled: change == Change::On };
                session.daemon()?.patch("/latency", &request)?
            }
        };
        session.show(&report, || text(&report))
    }
}

fn text(report: &LatencyReport) -> String {
    let seen = report.layers.iter().filter(|l| l.count > 0);
    let rows: Vec<[String; 7]> = seen
        .map(|l| {
            let us = |ns: u64| format!("{:.1}", ns as f64 / 1000.0);
            let times = [l.mean_ns, l.p50_ns, l.p99_ns, l.p999_ns, l.max_ns].map(us);
            let [mean, p50, p99, p999, max] = times;
            [l.layer.clone(), l.count.to_string(), mean, p50, p99, p999, max]
        })
        .collect();
    let lasted = time::span(report.lasted_ms / 1000);
    let said = match (report.enabled, report.layers.is_empty()) {
        (true, _) => format!("measuring for {lasted}; 'parallax latency off' ends it\n"),
        (false, false) => format!("measured for {lasted}\n"),
        (false, true) => "nothing measured: 'parallax latency on' begins\n".to_owned(),
    };
    if rows.is_empty() {
        return said;
    }
    let header = ["LAYER", "COUNT", "MEAN us", "P50 us", "P99 us", "P99.9 us", "MAX us"];
    said + &table::render(header, &[1, 2, 3, 4, 5, 6], &rows)
}
