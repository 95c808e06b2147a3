//! Which combination comes when.

use std::collections::BTreeSet;

use crate::fault::{FAULTS, Fault};
use crate::moment::{MOMENTS, Moment};
use crate::strike::{STRIKES, Strike};

pub(crate) type Card = (Fault, Moment, Strike);

/// Every combination that can be, in an order by chance in which each comes once before any comes twice, and every pair of
/// fault and moment, fault and strike, moment and strike as early as may be.
pub(crate) struct Deck {
    cards: Vec<Card>,
    next: usize,
    random: Random,
}

/// SplitMix64 (Steele et al. 2014): small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// A pair of two of a card's three.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Pair {
    At(Fault, Moment),
    By(Fault, Strike),
    When(Moment, Strike),
}

impl Deck {
    /// Of the faults that are wanted.
    pub(crate) fn new(seed: u64, wanted: impl Fn(Fault) -> bool) -> Self {
        let mut cards = vec![];
        for fault in FAULTS.into_iter().filter(|fault| wanted(*fault)) {
            for moment in MOMENTS.into_iter().filter(|moment| fault.meets(*moment)) {
                let possible = STRIKES.into_iter().filter(|strike| strike.possible(fault, moment));
                cards.extend(possible.map(|strike| (fault, moment, strike)));
            }
        }
        let mut deck = Self { next: 0, cards, random: Random(seed) };
        deck.shuffle();
        deck
    }

    /// Always the card with the most pairs that have not come yet.
    fn shuffle(&mut self) {
        for at in (1..self.cards.len()).rev() {
            let other = (self.random.next() % (at as u64 + 1)) as usize;
            self.cards.swap(at, other);
        }
        let mut met = BTreeSet::new();
        for at in 0..self.cards.len() {
            let new = |card: &Card| pairs(card).iter().filter(|pair| !met.contains(*pair)).count();
            let most = (at..self.cards.len()).map(|other| new(&self.cards[other])).max().unwrap_or(0);
            if most == 0 {
                break;
            }
            // The first of them: the order among equals is by chance already.
            if let Some(best) = (at..self.cards.len()).find(|other| new(&self.cards[*other]) == most) {
                self.cards.swap(at, best);
                met.extend(pairs(&self.cards[at]));
            }
        }
        self.next = 0;
    }

    pub(crate) fn deal(&mut self) -> Card {
        if self.next == self.cards.len() {
            self.shuffle();
        }
        self.next += 1;
        self.cards[self.next - 1]
    }

    /// A number by chance, 0–1.
    pub(crate) fn chance(&mut self) -> f64 {
        self.random.unit()
    }
}

fn pairs(&(fault, moment, strike): &Card) -> [Pair; 3] {
    [Pair::At(fault, moment), Pair::By(fault, strike), Pair::When(moment, strike)]
}
