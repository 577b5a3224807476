//! The faults for as long as one likes: `scripts/soak MINUTES [--seed N]` calls it.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use distcifs_tests::Cluster;
use distcifs_tests::faults::network::Network;
use distcifs_tests::faults::run::{Plan, run};

const USAGE: &str = "usage: soak MINUTES [--seed N]    0 minutes: each fault once";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let seed = match words.get(1..).unwrap_or_default() {
        ["--seed", seed] => seed.parse().ok(),
        [] => SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map(|now| now.as_secs())
            .ok(),
        _ => None,
    };
    let minutes: Option<u64> = words.first().and_then(|minutes| minutes.parse().ok());
    let (Some(minutes), Some(seed)) = (minutes, seed) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    if !Cluster::available() || !Network::available() {
        return ExitCode::from(1);
    }
    let time = (minutes > 0).then(|| Duration::from_secs(60 * minutes));
    println!("soak: {minutes} minutes, seed {seed}");
    let folder = std::env::temp_dir().join(format!("distcifs-soak-{seed}-{}", std::process::id()));
    let report = run(Plan { seed, time }, &folder);
    println!("{report}");
    ExitCode::from(u8::from(!report.is_good()))
}
