//! What is to sleep and cannot.

use super::*;

/// Each time that it is due to fall asleep it fails to. What time has made of it, with the minutes at which.
fn restless(mut state: State, policy: &Policy) -> Vec<String> {
    let mut ladder = Vec::new();
    while let Some((due, _)) = next_rung(&state, policy) {
        let answer = step(&state, &Event::Clock, due, policy);
        let Ok(Answer::Done(next, effects)) = answer else { panic!("{answer:?}") };
        ladder.push(format!("{} min: {next}", due.0 / MINUTE));
        state = next;
        if effects.contains(&Effect::Freeze { release: v(1) }) {
            (state, _) = done(&state, Event::SleepFailed { release: v(1) }, due.0 + 1000);
            assert_eq!(state.to_string(), "awake v1");
        }
    }
    ladder
}

#[test]
fn what_cannot_fall_asleep_is_tried_again_and_goes_off_and_is_destroyed_in_its_time_all_the_same() {
    let hour = Policy { ttl: Some(Duration::from_secs(3600)), ..Policy::default() };
    let ladder =
        ["15 min: asleep v1", "30 min: asleep v1", "45 min: asleep v1", "60 min: off v1", "20160 min: destroyed"];
    assert_eq!(restless(awake(1), &hour), ladder);
    let never_off = Policy { ttl: None, expire: Some(Duration::from_secs(2400)), ..Policy::default() };
    assert_eq!(restless(awake(1), &never_off), ["15 min: asleep v1", "30 min: asleep v1", "40 min: destroyed"]);
}

#[test]
fn that_it_stayed_awake_is_no_use_of_it_and_is_forgotten_once_it_sleeps() {
    let (state, _) = done(&awake(1), Event::Clock, 15 * MINUTE);
    let (state, _) = done(&state, Event::SleepFailed { release: v(1) }, 16 * MINUTE);
    let live = |state: &State| match state {
        State::Live(live) => live.clone(),
        State::Destroyed { .. } => panic!("destroyed"),
    };
    let restless = live(&state);
    assert_eq!((restless.last_used, restless.stayed_awake), (Timestamp(0), Some(Timestamp(16 * MINUTE))));
    assert_eq!(restless.idle_since(), Timestamp(16 * MINUTE));
    let (state, _) = done(&state, Event::Clock, 31 * MINUTE);
    assert_eq!((state.to_string().as_str(), live(&state).stayed_awake), ("asleep v1", None));
}
