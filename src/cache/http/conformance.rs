#![doc = include_str!("../../docs/cache_checklist.md")]
