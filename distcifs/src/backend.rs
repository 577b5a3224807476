//! The stores behind the traits; each client crate is named in one folder only.
pub mod embedded;
mod work;
