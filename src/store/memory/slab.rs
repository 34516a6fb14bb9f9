//! [`Slab`]: values at stable indices in one allocation.

/// Values by index; freed indices are reused.
#[derive(Debug)]
pub(super) struct Slab<T> {
    values: Vec<T>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { values: Vec::new(), free: Vec::new() }
    }
}

impl<T: Default> Slab<T> {
    #[inline]
    pub(super) fn at(&mut self, place: u64) -> &mut T {
        &mut self.values[place as usize]
    }

    /// Stores a value and returns its index. Capacity grows to at most `most` values.
    pub(super) fn put(&mut self, value: T, most: usize) -> u64 {
        if let Some(place) = self.free.pop() {
            self.values[place as usize] = value;
            return u64::from(place);
        }
        let len = self.values.len();
        if len == self.values.capacity() {
            self.values.reserve_exact((len / 2).max(4).min(most.saturating_sub(len)).max(1));
        }
        self.values.push(value);
        len as u64
    }

    /// Frees an index.
    pub(super) fn take(&mut self, place: u64) -> T {
        self.free.push(place as u32);
        std::mem::take(self.at(place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freed_place_is_used_again_and_room_is_made_for_no_more_than_told() {
        let mut slab = Slab::default();
        let places: Vec<u64> = (0..10).map(|n| slab.put(n, 10)).collect();
        assert_eq!(slab.values.capacity(), 10);
        assert_eq!(slab.take(places[3]), 3);
        assert_eq!(slab.put(33, 10), places[3]);
        assert_eq!((*slab.at(places[3]), *slab.at(places[9])), (33, 9));
        assert_eq!(slab.values.len(), 10);
    }
}
