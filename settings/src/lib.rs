//! What users hand in as JSON, YAML or TOML, as far as the daemon and the workers both must know it: names, texts read
//! with the place of each value, and the settings of a task.

pub mod expand;
pub mod fault;
pub mod git;
pub mod json;
pub mod matching;
pub mod names;
pub mod object;
pub mod pipeline;
mod render;
pub mod source;
pub mod task;
mod text;
pub mod toml;
pub mod yaml;

pub use render::Rendered;
