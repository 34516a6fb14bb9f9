//! For those who maintain this crate, and those who want to know before they adopt it.

/// How the house is built, and why.
pub mod architecture {
    #![doc = include_str!("architecture.md")]
}

/// What goes wrong elsewhere, and what happens here.
pub mod faults {
    #![doc = include_str!("faults.md")]
}

/// Questions people have asked of such crates, answered.
pub mod questions {
    #![doc = include_str!("questions.md")]
}
