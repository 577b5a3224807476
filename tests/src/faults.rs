//! Builds on several mounts while something is done to them, what everybody was told meanwhile, and
//! the proof afterwards that nothing was lost, stuck or done twice.
//!
//! Everybody writes a line before and after each call into one file, the history: the clients of
//! [`clients`] and the workers of [`crew`]. [`injector`] does the harm and says so there, [`collector`]
//! has gc run all the while. In the end all is healed, a mount that saw nothing of it reads what is
//! there ([`found`]), and [`checker`] compares the two.

pub mod checker;
pub mod clients;
pub mod collector;
pub mod crew;
pub mod dice;
pub mod farm;
pub mod found;
pub mod groups;
pub mod history;
pub mod injector;
pub mod network;
pub mod run;
pub mod stage;
