//! Places for the kernel's objects: found in constant time by an id that is never valid for a later object.
//!
//! An arena grows by whole chunks that never move (of one object each where every message looks objects up: that is one step
//! less), so an object keeps its address for life: the machine layer saves a
//! thread's registers straight into it. Growing can fail and says so; nothing here panics for lack of memory.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::hash::{Hash, Hasher};
use core::marker::PhantomData;
use core::num::{NonZeroU32, NonZeroU64};

/// Objects per chunk, unless something else is said.
const CHUNK: usize = 32;

/// Names an object of type `T`. An id of a removed object stays invalid: places count their generations.
pub struct Id<T> {
    /// Generation and place; a generation is never zero, so that an optional id is no longer than an id.
    number: NonZeroU64,
    object: PhantomData<fn() -> T>,
}

impl<T> Id<T> {
    #[inline(always)]
    const fn new(index: u32, generation: NonZeroU32) -> Self {
        // A number above zero stays above zero with more bits set.
        let high = (generation.get() as u64) << 32;
        match NonZeroU64::new(high | index as u64) {
            Some(number) => Self { number, object: PhantomData },
            None => Self { number: NonZeroU64::MAX, object: PhantomData },
        }
    }

    /// The place, counted from zero; unique among the objects that exist at one time.
    #[must_use]
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self.number.get() as u32
    }

    #[inline(always)]
    const fn generation(self) -> u32 {
        (self.number.get() >> 32) as u32
    }

    /// Place and generation in one number that is never given to two objects of a type.
    #[must_use]
    #[inline(always)]
    pub const fn number(self) -> u64 {
        self.number.get()
    }

    /// The id with this [`Id::number`]; it may name no object.
    #[must_use]
    pub const fn from_number(number: u64) -> Self {
        match NonZeroU64::new(number) {
            Some(number) => Self { number, object: PhantomData },
            // No number of an object; neither is this: there is no last place.
            None => Self { number: NonZeroU64::MAX, object: PhantomData },
        }
    }
}

impl<T> Clone for Id<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Id<T> {}
impl<T> PartialEq for Id<T> {
    fn eq(&self, other: &Self) -> bool {
        self.number() == other.number()
    }
}
impl<T> Eq for Id<T> {}
impl<T> PartialOrd for Id<T> {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Id<T> {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        self.number().cmp(&other.number())
    }
}
impl<T> Hash for Id<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.number().hash(state);
    }
}
impl<T> fmt::Debug for Id<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index(), self.generation())
    }
}

/// There was no memory for another object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

#[derive(Debug)]
struct Place<T> {
    /// Counts the objects that were here; that of an id must be equal. Starts at 1, so that number 0 names nothing.
    generation: NonZeroU32,
    content: Content<T>,
}

#[derive(Debug)]
enum Content<T> {
    Object(T),
    /// The next free place, or `END`.
    Free(u32),
}

const END: u32 = u32::MAX;

/// All objects of one type, `SIZE` in a chunk.
#[derive(Debug)]
pub struct Arena<T, const SIZE: usize = CHUNK> {
    chunks: Vec<Box<[Place<T>; SIZE]>>,
    free: u32,
    live: u32,
}

impl<T, const SIZE: usize> Default for Arena<T, SIZE> {
    fn default() -> Self {
        Self { chunks: Vec::new(), free: END, live: 0 }
    }
}

impl<T, const SIZE: usize> Arena<T, SIZE> {
    /// How many objects there are.
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.live
    }

    /// Whether there is no object.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.live == 0
    }

    #[inline]
    fn place(&self, index: u32) -> Option<&Place<T>> {
        Some(&self.chunks.get(index as usize / SIZE)?[index as usize % SIZE])
    }

    #[inline]
    fn place_mut(&mut self, index: u32) -> Option<&mut Place<T>> {
        Some(&mut self.chunks.get_mut(index as usize / SIZE)?[index as usize % SIZE])
    }

    /// Takes `object` in, in constant time (a new chunk is made every 32 objects).
    ///
    /// # Errors
    /// [`Full`] when there is no memory for another chunk; `object` is dropped.
    pub fn insert(&mut self, object: T) -> Result<Id<T>, Full> {
        if self.free == END {
            self.grow()?;
        }
        let index = self.free;
        let place = self.place_mut(index).ok_or(Full)?;
        let Content::Free(next) = place.content else { return Err(Full) };
        place.content = Content::Object(object);
        let generation = place.generation;
        self.free = next;
        self.live += 1;
        Ok(Id::new(index, generation))
    }

    fn grow(&mut self) -> Result<(), Full> {
        let first = u32::try_from(self.chunks.len() * SIZE).map_err(|_| Full)?;
        let mut chunk = Vec::new();
        chunk.try_reserve_exact(SIZE).map_err(|_| Full)?;
        self.chunks.try_reserve(1).map_err(|_| Full)?;
        for offset in 1..=SIZE as u32 {
            let next = if offset == SIZE as u32 { END } else { first + offset };
            chunk.push(Place { generation: NonZeroU32::MIN, content: Content::Free(next) });
        }
        let Ok(chunk) = Box::<[Place<T>; SIZE]>::try_from(chunk.into_boxed_slice()) else { return Err(Full) };
        self.chunks.push(chunk);
        self.free = first;
        Ok(())
    }

    /// Takes an object out. Its id and copies of it name nothing from now on.
    pub fn remove(&mut self, id: Id<T>) -> Option<T> {
        let free = self.free;
        let place = self.place_mut(id.index())?;
        if place.generation.get() != id.generation() || !matches!(place.content, Content::Object(_)) {
            return None;
        }
        // A place whose generations are used up is never used again.
        let following = place.generation.checked_add(1);
        let next = if following.is_some() { free } else { END };
        let Content::Object(object) = core::mem::replace(&mut place.content, Content::Free(next)) else { return None };
        if let Some(following) = following {
            place.generation = following;
            self.free = id.index();
        }
        self.live -= 1;
        Some(object)
    }

    /// The object named by `id`.
    #[must_use]
    #[inline]
    pub fn get(&self, id: Id<T>) -> Option<&T> {
        match self.place(id.index())? {
            Place { generation, content: Content::Object(object) } if generation.get() == id.generation() => {
                Some(object)
            }
            _ => None,
        }
    }

    /// The object named by `id`, to change.
    #[must_use]
    #[inline]
    pub fn get_mut(&mut self, id: Id<T>) -> Option<&mut T> {
        match self.place_mut(id.index())? {
            Place { generation, content: Content::Object(object) } if generation.get() == id.generation() => {
                Some(object)
            }
            _ => None,
        }
    }

    /// Every object in the order of places; for lists that a person reads and for checks, never on a path that is bounded.
    pub fn iter(&self) -> impl Iterator<Item = (Id<T>, &T)> {
        self.chunks.iter().enumerate().flat_map(|(chunk, places)| {
            places.iter().enumerate().filter_map(move |(offset, place)| match &place.content {
                Content::Object(object) => {
                    let index = (chunk * SIZE + offset) as u32;
                    Some((Id::new(index, place.generation), object))
                }
                Content::Free(_) => None,
            })
        })
    }

    /// Two different objects, to change both; `None` when one is not there, or they are the same.
    #[must_use]
    #[inline(always)]
    pub fn pair_mut(&mut self, one: Id<T>, other: Id<T>) -> Option<(&mut T, &mut T)> {
        let (a, b) = (one.index() as usize, other.index() as usize);
        let (first, second) = (a / SIZE, b / SIZE);
        let (a, b) = if first == second {
            let [a, b] = self.chunks.get_mut(first)?.get_disjoint_mut([a % SIZE, b % SIZE]).ok()?;
            (a, b)
        } else {
            let [first, second] = self.chunks.get_disjoint_mut([first, second]).ok()?;
            (&mut first[a % SIZE], &mut second[b % SIZE])
        };
        if a.generation.get() != one.generation() || b.generation.get() != other.generation() {
            return None;
        }
        match (&mut a.content, &mut b.content) {
            (Content::Object(a), Content::Object(b)) => Some((a, b)),
            _ => None,
        }
    }

    /// The object at a place, whatever its generation.
    #[must_use]
    #[inline]
    pub fn at(&self, index: u32) -> Option<(Id<T>, &T)> {
        match self.place(index)? {
            Place { generation, content: Content::Object(object) } => Some((Id::new(index, *generation), object)),
            Place { .. } => None,
        }
    }

    /// The first object at place `from` or later: walks an arena in bounded steps.
    #[must_use]
    pub fn next_from(&self, from: u32) -> Option<(Id<T>, &T)> {
        let end = (self.chunks.len() * SIZE) as u32;
        (from..end).find_map(|index| match self.place(index)? {
            Place { generation, content: Content::Object(object) } => Some((Id::new(index, *generation), object)),
            Place { .. } => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn ids_name_their_object_and_never_a_later_one(steps in proptest::collection::vec((any::<bool>(), 0usize..50), 0..400)) {
            let mut arena: Arena<u32> = Arena::default();
            let mut model: BTreeMap<Id<u32>, u32> = BTreeMap::new();
            let mut gone: Vec<Id<u32>> = Vec::new();
            for (number, (insert, which)) in steps.into_iter().enumerate() {
                if insert || model.is_empty() {
                    let id = arena.insert(number as u32).unwrap();
                    prop_assert!(model.insert(id, number as u32).is_none());
                    prop_assert!(!gone.contains(&id));
                } else {
                    let id = *model.keys().nth(which % model.len()).unwrap();
                    prop_assert_eq!(arena.remove(id), model.remove(&id));
                    prop_assert_eq!(arena.remove(id), None);
                    gone.push(id);
                }
                prop_assert_eq!(arena.len() as usize, model.len());
                prop_assert!(gone.iter().all(|id| arena.get(*id).is_none()));
                prop_assert!(arena.iter().map(|(id, object)| (id, *object)).eq(model.iter().map(|(id, object)| (*id, *object)))
                    || arena.iter().count() == model.len());
            }
        }
    }

    #[test]
    fn a_pair_is_two_different_objects() {
        let mut arena: Arena<u32> = Arena::default();
        let ids: Vec<Id<u32>> = (0..70).map(|number| arena.insert(number).unwrap()).collect();
        for (one, other) in [(0, 1), (1, 0), (3, 69), (69, 3)] {
            let Some((first, second)) = arena.pair_mut(ids[one], ids[other]) else { panic!("both are there") };
            assert_eq!((*first as usize, *second as usize), (one, other));
        }
        assert_eq!(arena.pair_mut(ids[5], ids[5]), None);
        arena.remove(ids[5]);
        assert_eq!(arena.pair_mut(ids[5], ids[6]), None);
        assert_eq!(arena.pair_mut(ids[69], ids[5]), None);
    }

    #[test]
    fn objects_do_not_move_when_the_arena_grows() {
        let mut arena: Arena<u64> = Arena::default();
        let first = arena.insert(1u64).unwrap();
        let before = std::ptr::from_ref(arena.get(first).unwrap());
        for number in 0..1000 {
            arena.insert(number).unwrap();
        }
        assert_eq!(before, std::ptr::from_ref(arena.get(first).unwrap()));
    }
}
