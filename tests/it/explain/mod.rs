//! `explain` predicts what the kernel does with frames.

mod random;
mod said;

pub use self::said::played;
