//! What the workers share: paths of the mounted tree and the claim loop.
