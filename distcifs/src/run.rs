//! The one place that puts the layers together.
