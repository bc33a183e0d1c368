use proptest::prelude::*;

use super::*;

const MINUTE: Duration = Duration::from_secs(60);
const PACE: Pace = Pace { every: MINUTE, gone: Duration::from_secs(600) };

fn commit(digit: u8) -> CommitId {
    CommitId::parse(&format!("{digit:x}").repeat(40)).unwrap()
}

fn at(digit: u8) -> Sight {
    Sight::At { commit: commit(digit), vouched: true }
}

fn record() -> Record {
    Record { head: commit(1), staging: None, here: true, missing: None }
}

fn minute(number: u64) -> Timestamp {
    Timestamp(1_000_000).plus(MINUTE * u32::try_from(number).unwrap())
}

/// The steps that such looks come to, one a minute, where staging ends before the next look.
fn steps(mut record: Record, sights: &[Sight]) -> Vec<Step> {
    let look = |(number, sight)| {
        let decision = decide(&record, sight, minute(number), &PACE);
        record.missing = decision.missing;
        if let Step::Stage(commit) = &decision.step {
            record.head = commit.clone();
        }
        decision.step
    };
    (0..).zip(sights).map(look).collect()
}

#[test]
fn a_branch_that_has_moved_is_staged_once_and_again_when_it_comes_back() {
    let seen = steps(record(), &[at(1), at(2), at(2), at(1), at(1)]);
    assert_eq!(seen, [Step::Nothing, Step::Stage(commit(2)), Step::Nothing, Step::Stage(commit(1)), Step::Nothing]);
}

#[test]
fn what_is_being_staged_is_not_staged_again_and_what_moves_on_meanwhile_is() {
    let staging = Record { staging: Some(commit(2)), ..record() };
    let step = |sight| decide(&staging, &sight, minute(0), &PACE).step;
    assert_eq!(step(at(2)), Step::Nothing);
    assert_eq!(step(at(3)), Step::Stage(commit(3)));
    assert_eq!(step(at(1)), Step::Stage(commit(1)), "what was taken back");
}

#[test]
fn a_commit_for_which_no_branch_vouches_is_asked_about_unless_somebody_had_it_staged() {
    let stranger = |digit| Sight::At { commit: commit(digit), vouched: false };
    assert_eq!(steps(record(), &[stranger(1), stranger(2)]), [Step::Nothing, Step::Ask(commit(2))]);
    let staging = Record { staging: Some(commit(2)), ..record() };
    assert_eq!(decide(&staging, &stranger(1), minute(0), &PACE).step, Step::Stage(commit(1)));
}

#[test]
fn what_is_missing_for_long_enough_is_gone_and_what_comes_back_before_that_starts_anew() {
    let mut sights = vec![Sight::Nowhere; 10];
    sights.push(at(1));
    sights.extend(vec![Sight::Nowhere; 11]);
    let mut expected = vec![Step::Nothing; 21];
    expected.push(Step::Destroy);
    assert_eq!(steps(record(), &sights), expected);
}

#[test]
fn a_clock_that_is_set_does_not_make_anything_gone() {
    let mut record = record();
    let day = 24 * 60;
    for (number, now) in [2 * day, 3 * day, 3 * day + 1, day, 2 * day, 2 * day + 1].into_iter().enumerate() {
        let decision = decide(&record, &Sight::Nowhere, minute(now), &PACE);
        assert_eq!(decision.step, Step::Nothing, "look {number}");
        record.missing = decision.missing;
    }
    assert_eq!(record.missing.unwrap().lasted, 6 * MINUTE, "two for each jump ahead, one for each minute");
}

#[test]
fn one_look_never_makes_anything_gone_even_without_a_grace_period() {
    let pace = Pace { gone: Duration::ZERO, ..PACE };
    let first = decide(&record(), &Sight::Nowhere, minute(0), &pace);
    assert_eq!(first.step, Step::Nothing);
    let second = decide(&Record { missing: first.missing, ..record() }, &Sight::Nowhere, minute(1), &pace);
    assert_eq!(second.step, Step::Destroy);
}

#[test]
fn in_a_repository_that_the_app_did_not_have_nothing_is_missing_before_it_was_seen_there() {
    let elsewhere = Record { here: false, ..record() };
    assert_eq!(steps(elsewhere.clone(), &vec![Sight::Nowhere; 100]), vec![Step::Nothing; 100]);
    assert_eq!(steps(elsewhere.clone(), &[at(1)]), [Step::Adopt]);
    assert_eq!(steps(elsewhere, &[at(2)]), [Step::Stage(commit(2))]);
}

#[test]
fn rests_grow_with_failures_up_to_an_hour() {
    let rests = (0..9).map(|failures| rest(MINUTE, failures, 1.0).as_secs() / 60).collect::<Vec<_>>();
    assert_eq!(rests, [0, 2, 4, 8, 16, 32, 60, 60, 60]);
    assert_eq!(rest(MINUTE, 1, 0.0), MINUTE * 3 / 2);
    assert_eq!(rest(MINUTE * 120, 9, 1.0), MINUTE * 120, "never more often than without a failure");
}

fn sights() -> impl Strategy<Value = Vec<(Sight, u64)>> {
    let sight = prop_oneof![
        (1..4_u8, any::<bool>()).prop_map(|(digit, vouched)| Sight::At { commit: commit(digit), vouched }),
        Just(Sight::Nowhere),
        Just(Sight::Nowhere),
    ];
    prop::collection::vec((sight, 0..2000_u64), 1..60)
}

proptest! {
    #[test]
    fn nothing_is_destroyed_but_after_looks_in_a_row_that_miss_it_for_the_grace_period(looks in sights()) {
        let (mut record, mut row, mut since) = (record(), 0, 0);
        for (sight, now) in looks {
            let decision = decide(&record, &sight, minute(now), &PACE);
            match sight {
                Sight::Nowhere => {
                    since = if row == 0 { 0 } else { since + 2 };
                    row += 1;
                }
                Sight::At { .. } => row = 0,
            }
            if decision.step == Step::Destroy {
                // Each look after the first stands for two minutes at most.
                prop_assert!(row >= 2 && since >= 10, "after {row} looks");
            }
            prop_assert_eq!(decision.missing.is_some(), row > 0);
            record.missing = decision.missing;
        }
    }

    #[test]
    fn nobody_but_a_branch_or_a_person_decides_what_is_staged(looks in sights()) {
        let mut record = record();
        let mut known = vec![commit(1)];
        for (sight, now) in looks {
            let decision = decide(&record, &sight, minute(now), &PACE);
            if let Sight::At { commit, vouched: true } = &sight {
                known.push(commit.clone());
            }
            if let Step::Stage(staged) = &decision.step {
                prop_assert!(known.contains(staged));
                prop_assert_ne!(staged, &record.head);
                record.head = staged.clone();
            }
        }
    }
}
