//! Workers: small programs that know the mounted tree (doc/tree.md) and nothing of what is behind it.

#[macro_use]
mod say;

pub mod adding;
mod again;
pub mod artifacts;
pub mod aside;
pub mod beneath;
pub mod checkout;
#[cfg(any(feature = "github", feature = "web"))]
pub mod connections;
pub mod console;
pub mod control;
pub mod copying;
pub mod cron;
pub mod execute;
pub mod held;
pub mod identity;
pub mod jobs;
pub mod keeper;
pub mod keys;
mod lanes;
pub mod notify;
pub mod pages;
mod pauses;
pub mod plan;
pub mod record;
pub mod reports;
pub mod reserve;
pub mod secret;
pub mod selecting;
pub mod shell;
pub mod signals;
pub mod spawn;
mod standing;
#[cfg(feature = "github")]
pub mod status;
pub mod supervise;
pub mod task;
pub mod ticket;
pub mod tree;
mod turns;
#[cfg(feature = "web")]
pub mod web;
#[cfg(feature = "github")]
pub mod webhook;
