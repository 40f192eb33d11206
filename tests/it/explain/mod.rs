//! What `explain` says is what frames do.

mod random;
mod said;

pub use self::said::played;
