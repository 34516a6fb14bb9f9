//! Marks requests that have passed a gate, so that a gate that is layered twice recognizes them.

use http::Extensions;

/// Mark of one of the first gates of a process: a type without a value, which an extension holds without an allocation.
#[derive(Clone, Copy)]
struct EarlyMark<const NUMBER: u16>;

/// Mark of any other gate.
#[derive(Clone, Copy, PartialEq, Eq)]
struct LaterMark(u16);

macro_rules! early_marks {
    ($($number:literal)*) => {
        /// Marks the request as having passed the gate of this number.
        pub(super) fn mark(extensions: &mut Extensions, gate: u16) {
            match gate {
                0 => {}
                $($number => drop(extensions.insert(EarlyMark::<$number>)),)*
                _ => drop(extensions.insert(LaterMark(gate))),
            }
        }

        /// Whether the request has passed the gate of this number.
        pub(super) fn is_marked(extensions: &Extensions, gate: u16) -> bool {
            match gate {
                0 => false,
                $($number => extensions.get::<EarlyMark<$number>>().is_some(),)*
                _ => extensions.get::<LaterMark>() == Some(&LaterMark(gate)),
            }
        }
    };
}

early_marks!(1 2 3 4 5 6 7 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_bears_the_marks_of_the_gates_it_has_passed() {
        for gate in [1, 2, 8, 9, 700] {
            let mut extensions = Extensions::new();
            mark(&mut extensions, gate);
            for other in 0..1_000 {
                assert_eq!(is_marked(&extensions, other), other == gate, "{gate} {other}");
            }
        }
    }
}
