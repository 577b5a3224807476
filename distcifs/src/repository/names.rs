//! Names checked when they are made, as the workers have them too.

pub use distcifs_settings::names::*;
