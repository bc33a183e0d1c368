//! What ends by itself.

use super::*;

const DIED: Event = Event::Found(Found::Stopped);

fn ended(again: Option<u64>) -> Effect {
    Effect::ReportEnd { release: v(1), again: again.map(Duration::from_secs) }
}

fn woke(state: &State, at: u64) -> State {
    done(state, Event::Woke { release: v(1) }, at).0
}

/// Ended twice within a minute and a half: when, and what it came to.
fn ended_twice(state: State) -> (State, Vec<Effect>) {
    let (state, effects) = done(&state, DIED, 1000);
    assert_eq!(effects, [Effect::Hold, Effect::Start { release: v(1) }, ended(Some(0))], "the first time");
    let state = woke(&state, 2000);
    done(&state, DIED, 63_000)
}

#[test]
fn what_ends_again_soon_waits_for_somebody_however_long_it_was_up_in_between() {
    let (state, effects) = ended_twice(awake(1));
    assert_eq!((state.to_string().as_str(), effects), ("off v1 (crashed)", vec![Effect::Hold, ended(None)]));
    assert_eq!(step(&state, &Event::Clock, Timestamp(HOUR), &Policy::default()), Ok(Answer::AlreadySo));
    // A visit starts it, and does not have it start twice.
    let state = woke(&done(&state, Event::Visit, 64_000).0, 65_000);
    let (state, _) = done(&state, DIED, 66_000);
    assert_eq!(state.to_string(), "off v1 (crashed)");
}

#[test]
fn a_quarter_of_an_hour_without_an_end_or_another_release_makes_the_next_end_a_first_one() {
    let (off, _) = ended_twice(awake(1));
    let state = woke(&done(&off, Event::Visit, 64_000).0, 65_000);
    let (state, _) = done(&state, DIED, 63_000 + 15 * MINUTE + 1);
    assert_eq!(state.to_string(), "waking v1");

    let (state, _) = done(&off, Event::Deploy { release: v(2) }, 64_000);
    let (state, _) = done(&state, Event::DeploySucceeded { release: v(2) }, 65_000);
    let (state, _) = done(&state, DIED, 66_000);
    assert_eq!(state.to_string(), "waking v2");
}

#[test]
fn what_is_pinned_is_tried_again_by_itself_after_pauses_that_double() {
    let (mut state, effects) = ended_twice(done(&awake(1), Event::Pin, 0).0);
    assert_eq!(effects, [Effect::Hold, ended(Some(60))]);
    let mut now = 63_000;
    let mut pauses = Vec::new();
    // It does not even come up any more.
    for _ in 0..6 {
        let (due, rung) = next_rung(&state, &Policy::default()).unwrap();
        assert_eq!(rung, Rung::Again);
        assert_eq!(step(&state, &Event::Clock, Timestamp(due.0 - 1), &Policy::default()), Ok(Answer::AlreadySo));
        pauses.push((due.0 - now) / 1000);
        now = due.0;
        let (waking, effects) = done(&state, Event::Clock, now);
        assert_eq!(effects, [Effect::Start { release: v(1) }]);
        (state, _) = done(&waking, Event::WakeFailed { release: v(1) }, now);
    }
    assert_eq!(pauses, [60, 120, 240, 480, 600, 600]);
}

#[test]
fn after_a_reboot_what_is_pinned_and_has_no_room_is_tried_again_by_itself_until_somebody_turns_it_off() {
    let (pinned, _) = done(&awake(1), Event::Pin, 0);
    let (waking, effects) = done(&pinned, Event::DaemonStarted { rebooted: true }, 0);
    assert_eq!(waking.to_string(), "waking v1, pinned");
    assert_eq!(effects, [Effect::Hold, Effect::Start { release: v(1) }]);
    let (off, effects) = done(&waking, Event::NoRoom { release: v(1) }, 1000);
    assert_eq!((off.to_string().as_str(), effects), ("off v1 (no memory for it), pinned", vec![Effect::Hold]));
    assert_eq!(next_rung(&off, &Policy::default()), Some((Timestamp(MINUTE + 1000), Rung::Again)));
    let (again, effects) = done(&off, Event::Clock, MINUTE + 1000);
    assert_eq!((again.to_string().as_str(), effects), ("waking v1, pinned", vec![Effect::Start { release: v(1) }]));
    let (awake, _) = done(&again, Event::Woke { release: v(1) }, MINUTE + 2000);
    assert_eq!(awake.to_string(), "awake v1, pinned");

    let (state, _) = done(&off, Event::Off, 2000);
    assert_eq!((state.to_string().as_str(), next_rung(&state, &Policy::default())), ("off v1, pinned", None));
    let (state, _) = done(&off, Event::Unpin, 2000);
    assert!(next_rung(&state, &Policy::default()).is_some_and(|(_, rung)| rung == Rung::Destroyed));
    assert_eq!(done(&state, Event::Visit, 3000).1, [Effect::Start { release: v(1) }]);
}
