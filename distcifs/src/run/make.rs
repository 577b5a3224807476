//! `distcifs init`.

use std::path::PathBuf;

use tokio::runtime::Builder;

use super::cluster::is_cluster;
use super::options::{MountOptions, places};
use super::progress::Shown;
use super::stores::{Stores, make_chroot};
use super::{Failure, Outcome};
use crate::cli;
use crate::repository::format::{self, Made};

/// Makes a repository, and says what it did.
pub(super) fn init(arguments: &cli::Init) -> Outcome {
    let (source, _) = places(&arguments.source, &PathBuf::from("/nowhere")).map_err(Failure::Refused)?;
    let options = MountOptions::parse(source.clone(), PathBuf::from("/"), &arguments.options);
    let options = options.map_err(Failure::Usage)?;
    options.cluster.check(&source).map_err(Failure::Usage)?;
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Refused(format!("can't start threads: {error}")))?;
    let handle = runtime.handle();
    let shown = Shown::new(format!("opening {}", source.display()));
    if is_cluster(&source) {
        make_chroot(&source, &options.cluster, handle).map_err(Failure::Refused)?;
    }
    let stores = Stores::open(&source, &options.cluster, None, handle).map_err(Failure::Refused)?;
    let made = runtime.block_on(format::make(&stores.coordination, &stores.contents, arguments.adopt));
    stores.close(handle);
    drop(shown);
    let place = source.display();
    match made.map_err(|error| Failure::Refused(format!("{place}: {error}")))? {
        Made::Fresh => println!("{place}: made a repository"),
        Made::Known => println!("{place}: the repository is there already"),
        Made::Adopted => println!("{place}: took over the contents of the pool"),
    }
    Ok(())
}
