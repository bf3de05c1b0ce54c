//! The forms of the model beside the rules at work: `detect::schedule` cycle by cycle, `retention::decide` day by day.

use super::*;
use crate::detect::{Action, Pace, Verdict, Why, schedule};
use crate::retention::{Candidate, decide};
use crate::timestamp::Timestamp;

const START_S: u32 = 1_000_000;

/// The same numbers in every run (xorshift).
struct Dice(u64);

impl Dice {
    /// From 0 to 1.
    fn roll(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        float(self.0 >> 11) / float(1 << 53)
    }
}

fn load(databases: u64, changed: f64, interval_s: f64, cooldown_s: f64) -> Load {
    Load { databases, changed, interval_s, cooldown_s, refresh_s: 0.0 }
}

/// Snapshots that the rule of the loop takes in `cycles` cycles, and refreshes among them.
fn simulate(load: &Load, spread: Spread, cycles: u32) -> (u64, u64) {
    let whole = |n: f64| format!("{n:.0}").parse::<u32>().unwrap();
    let databases = u32::try_from(load.databases).unwrap();
    let pace = Pace { cooldown_s: whole(load.cooldown_s), refresh_s: whole(load.refresh_s) };
    let mut dice = Dice(0x9E37_79B9_7F4A_7C15);
    let mut stored = vec![START_S; databases as usize];
    let mut dirty = vec![false; databases as usize];
    let (mut snapshots, mut refreshes) = (0, 0);
    for cycle in 1..=cycles {
        let now_s = START_S + cycle * whole(load.interval_s);
        for at in 0..databases {
            let i = at as usize;
            dirty[i] |= match spread {
                Spread::Same => f64::from(at) < f64::from(databases) * load.changed,
                Spread::Random => dice.roll() < load.changed,
                // Its turn comes whenever another multiple of 1/p is passed.
                Spread::Turn => {
                    let turns = |cycle: u32| (f64::from(cycle + at) * load.changed + 1e-9).floor();
                    turns(cycle) > turns(cycle - 1)
                }
            };
            let verdict = if dirty[i] { Verdict::Changed(Why::Main) } else { Verdict::Unchanged };
            let id = u64::from(at).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            match schedule(verdict, stored[i], now_s, id, pace) {
                Action::Skip | Action::Hold => continue,
                Action::Snapshot => snapshots += 1,
                Action::Refresh => refreshes += 1,
            }
            (stored[i], dirty[i]) = (now_s, false);
        }
    }
    (snapshots, refreshes)
}

/// What the model says for as many cycles.
fn told(load: &Load, spread: Spread, cycles: u32) -> f64 {
    load.snapshots(spread) / load.cycles() * f64::from(cycles)
}

#[test]
fn the_same_and_all_in_turn_are_exact() {
    for (changed, interval_s, cooldown_s) in [
        (0.01, 30.0, 0.0),
        (0.01, 30.0, 30.0),
        (0.01, 30.0, 1800.0),
        (0.01, 30.0, 1801.0),
        (0.01, 30.0, 3600.0),
        (0.05, 30.0, 7200.0),
        (0.4, 30.0, 90.0),
        (0.4, 30.0, 60.0),
        (1.0, 7.0, 300.0),
        (1.0, 60.0, 30.0),
    ] {
        let load = load(100, changed, interval_s, cooldown_s);
        for spread in [Spread::Same, Spread::Turn] {
            let cycles = 12_000;
            let (counted, _) = simulate(&load, spread, cycles);
            let told = told(&load, spread, cycles);
            // At either end of the time one snapshot of each database may be missing.
            let apart = (float(counted) - told).abs();
            assert!(apart <= load.active(spread), "{load:?} {spread:?}: {counted} counted, {told} told");
        }
    }
}

#[test]
fn at_random_the_form_is_the_average() {
    for (changed, cooldown_s) in [(0.01, 0.0), (0.01, 1800.0), (0.001, 1800.0), (0.1, 300.0), (0.5, 90.0), (1.0, 300.0)]
    {
        let load = load(200, changed, 30.0, cooldown_s);
        let cycles = 20_000;
        let (counted, _) = simulate(&load, Spread::Random, cycles);
        let told = told(&load, Spread::Random, cycles);
        // Between snapshots of one database there is at most as much chance as in coins: three deviations and an end each.
        let tolerance = 3.0 * told.sqrt() + 200.0;
        assert!((float(counted) - told).abs() <= tolerance, "{load:?}: {counted} counted, {told} told");
        assert!(tolerance < told / 10.0 || changed < 0.01, "{load:?}: {told} is too few to tell anything");
    }
}

#[test]
fn refreshes_are_exact_for_idle_databases_and_a_bound_for_others() {
    for refresh_s in [600.0, 3000.0, 86_400.0] {
        let idle = Load { refresh_s, ..load(300, 0.0, 30.0, 0.0) };
        let cycles = 20_160;
        let told = idle.refreshes() / idle.cycles() * f64::from(cycles);
        let (snapshots, refreshes) = simulate(&idle, Spread::Random, cycles);
        assert_eq!(snapshots, 0);
        assert!((float(refreshes) - told).abs() <= 300.0, "{refresh_s}: {refreshes} counted, {told} told");
        for spread in Spread::ALL {
            let busy = Load { changed: 0.02, cooldown_s: 600.0, ..idle };
            let (snapshots, refreshes) = simulate(&busy, spread, cycles);
            let told = (busy.snapshots(spread) + busy.refreshes()) / busy.cycles() * f64::from(cycles);
            assert!(float(snapshots + refreshes) <= told * 1.01 + 300.0, "{busy:?} {spread:?}");
        }
    }
    assert_eq!(load(300, 0.5, 30.0, 0.0).refreshes(), 0.0);
}

#[test]
fn the_known_figures_of_100_000_databases() {
    let load = load(100_000, 0.01, 30.0, 1800.0);
    let usd = |spread| load.snapshots(spread) * 5.0 / 1e6;
    assert!((usd(Spread::Same) - 7.2).abs() < 1e-9);
    assert!((usd(Spread::Turn) - 432.0).abs() < 1e-6);
    assert!((usd(Spread::Random) - 376.5).abs() < 0.5, "{}", usd(Spread::Random));
    for spread in Spread::ALL {
        assert_eq!(Load { changed: 0.0, ..load }.snapshots(spread), 0.0);
        let without = Load { cooldown_s: 0.0, ..load }.snapshots(spread);
        assert!((without - 86.4e6).abs() < 1.0, "{spread:?}: {without}");
    }
}

#[test]
fn a_large_database_takes_a_request_for_each_part_and_two_more() {
    let default = 256 << 20;
    for (why, raw, object, limit, requests) in [
        ("small", 20_480, 3_700, default, 1),
        ("the largest that is put at once", 8 << 20, 9 << 20, default, 1),
        ("large, but of one part", 64 << 20, 8 << 20, default, 1),
        ("a byte more", 64 << 20, (8 << 20) + 1, default, 4),
        ("ten parts", 100 << 20, 80 << 20, default, 12),
        ("parts grow so that 10,000 suffice", 200 << 30, 200 << 30, default, 9_755),
        ("little memory", 3 << 20, 3 << 20, 32 << 20, 1),
    ] {
        assert_eq!(requests_of(raw, object, limit), requests, "{why}");
    }
}

#[test]
fn rules_keep_no_more_than_the_bound_says_and_it_is_not_far_off() {
    let gap_s = 300;
    let rules = Rules { last: 3, weekly: 5, ..Rules::standard() };
    let load = load(1, 1.0, f64::from(gap_s), 0.0);
    let object = ObjectCost { bytes: 1000.0, requests: 1.0 };
    let forecast = Forecast { load, spread: Spread::Same, object };
    let mut lying: Vec<Candidate> = Vec::new();
    let mut most = 0;
    for day in 0..420 {
        for at in 0..86_400 / gap_s {
            let ms = (i64::from(day) * 86_400 + i64::from(at * gap_s)) * 1000;
            lying.push(Candidate { time: Timestamp::from_ms(ms).unwrap(), is_bad: false });
        }
        most = most.max(lying.len());
        let verdicts = decide(&rules, lying.last().unwrap().time, &lying);
        let mut verdicts = verdicts.into_iter();
        lying.retain(|_| verdicts.next() != Some(crate::retention::Verdict::Remove));
    }
    let bound = forecast.held(&rules, 14.0).objects;
    assert!(float(most as u64) <= bound && bound < float(most as u64) * 1.1, "{most} counted, at most {bound} told");
    // Without rules all is there; with them never more than that.
    let month = forecast.held(&Rules::default(), 1.0);
    assert_eq!((month.objects, month.bytes), (8641.0, 8_641_000.0));
    assert!(forecast.held(&rules, 0.001).objects <= 10.0);
}
