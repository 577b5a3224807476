//! What users hand in as JSON, YAML or TOML, as far as the daemon and the workers both must know it: names, texts read
//! with the place of each value, the settings of a task, and how one stands.

pub mod cause;
pub mod expand;
pub mod fault;
pub mod git;
pub mod json;
pub mod matching;
pub mod names;
pub mod notify;
pub mod object;
pub mod pipeline;
mod render;
pub mod source;
pub mod state;
pub mod task;
mod text;
pub mod toml;
pub mod yaml;

pub use render::Rendered;
