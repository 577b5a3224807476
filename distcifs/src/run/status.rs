//! `distcifs status`.

use std::io::Write;
use std::path::PathBuf;

use tokio::runtime::Builder;

use super::cluster::is_cluster;
use super::options::MountOptions;
use super::stores::Stores;
use super::{Failure, Outcome};
use crate::cli;
use crate::repository::format;
use crate::repository::maintain::Upkeep;

/// Prints `key value` lines: those of a mount's own file, or of a cluster's two stores.
pub(super) fn status(arguments: &cli::Status) -> Outcome {
    let place = arguments.place.display();
    let text = if is_cluster(&arguments.place) {
        cluster(arguments)?
    } else {
        let file = arguments.place.join("status");
        std::fs::read_to_string(&file)
            .map_err(|error| Failure::Refused(format!("{}: {error}; is {place} a mount?", file.display())))?
    };
    let written = std::io::stdout().write_all(text.as_bytes());
    written.map_err(|error| Failure::Refused(format!("standard output: {error}")))
}

/// Asks both stores, without a mount.
fn cluster(arguments: &cli::Status) -> Result<String, Failure> {
    let source = &arguments.place;
    let options = MountOptions::parse(source.clone(), PathBuf::from("/"), &arguments.options);
    let options = options.map_err(Failure::Usage)?;
    options.cluster.check(source).map_err(Failure::Usage)?;
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Refused(format!("can't start threads: {error}")))?;
    let stores = Stores::open(source, &options.cluster, None, runtime.handle()).map_err(Failure::Refused)?;
    let upkeep = Upkeep::new(stores.coordination.clone(), stores.contents.clone());
    let lines = runtime.block_on(async {
        format::check(&stores.coordination, &stores.contents).await?;
        upkeep.figures().await
    });
    let lines = lines.map_err(|error| Failure::Refused(format!("{}: {error}", source.display())));
    let head = format!("store {}\ncoordinator {}\n", stores.store, stores.coordinator);
    stores.close(runtime.handle());
    let lines = lines?.into_iter().map(|(key, value)| format!("{key} {value}\n"));
    Ok(head + &lines.collect::<String>())
}
