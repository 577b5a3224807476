//! Measures what doc/tree.md's promises cost on this machine, one JSON line per measure. Nothing
//! is asserted: a machine that is busy measures itself.

mod artifacts;
mod builds;
mod cluster;
mod crowd;
mod environments;
mod load;
mod many;
mod pipelines;
mod report;
mod streams;
mod upkeep;
mod web;
mod webhook;
mod workspace;

use std::process::ExitCode;

/// The measures by name, with what each takes.
const MEASURES: [(&str, fn()); 33] = [
    ("build", builds::one_task),
    ("throughput", builds::throughput),
    ("many", many::jobs_and_builds),
    ("waiters", streams::waiters),
    ("console", streams::console),
    ("stat", many::warm_stat),
    ("load", load::builds),
    ("tickets", load::tickets),
    ("workspace", workspace::small_files),
    ("large", workspace::large_file),
    ("artifacts", artifacts::by_pattern),
    ("webhook", webhook::push_to_build),
    ("deliveries", webhook::many_deliveries),
    ("web", web::page),
    ("pipeline", pipelines::push_to_task),
    ("added", pipelines::many_added),
    ("control", pipelines::control_time),
    ("pushes", pipelines::pushes),
    ("gc", upkeep::gc),
    ("backup", upkeep::backup),
    ("cluster-claim", cluster::claim),
    ("cluster-claims", cluster::claims_together),
    ("cluster-builds", cluster::builds),
    ("cluster-console", cluster::console),
    ("cluster-large", cluster::large),
    ("cluster-many", cluster::many),
    ("cluster-crowd", crowd::waiting),
    ("cluster-recovery", cluster::recovery),
    ("cluster-added", pipelines::many_added_on_cluster),
    ("cluster-pushes", pipelines::pushes_on_cluster),
    ("environments", environments::over_none),
    ("containers", environments::containers),
    ("machine", environments::machine),
];

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = wanted
        .iter()
        .find(|name| !MEASURES.iter().any(|(known, _)| known == name))
    {
        let names: Vec<&str> = MEASURES.iter().map(|(name, _)| *name).collect();
        eprintln!("bench: {unknown} is no measure; there are: {}", names.join(" "));
        return ExitCode::from(2);
    }
    for (_, measure) in MEASURES
        .iter()
        .filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|w| w == name))
    {
        measure();
    }
    ExitCode::SUCCESS
}
