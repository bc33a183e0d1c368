//! What is kept by somebody.

use super::*;

#[test]
fn an_extended_environment_sleeps_but_is_not_turned_off_before_its_time() {
    let (state, _) = done(&awake(1), Event::Extend { until: Timestamp(30 * DAY) }, 0);
    let (state, _) = done(&state, Event::Clock, 20 * DAY);
    assert_eq!(state.to_string(), "asleep v1");
    let (state, _) = done(&state, Event::Clock, 30 * DAY);
    assert!(matches!(state, State::Destroyed { .. }));
}

#[test]
fn what_is_not_pinned_any_more_is_not_destroyed_the_same_day() {
    let (pinned, _) = done(&awake(1), Event::Pin, 0);
    let (state, _) = done(&pinned, Event::Unpin, 20 * DAY);
    assert_eq!(end(&state, &Policy::default()), Some(Timestamp(21 * DAY)));
    let (state, _) = done(&state, Event::Clock, 21 * DAY - 1);
    assert_eq!(state.to_string(), "asleep v1");
    let (state, _) = done(&pinned, Event::Unpin, 14 * DAY - HOUR);
    assert_eq!(end(&state, &Policy::default()), Some(Timestamp(15 * DAY - HOUR)));
    let (state, _) = done(&pinned, Event::Unpin, 10 * DAY);
    assert_eq!(end(&state, &Policy::default()), Some(Timestamp(14 * DAY)), "there was time left");
}

#[test]
fn a_deploy_that_is_under_way_takes_nothing_of_the_day() {
    let soon = Policy { expire: Some(Duration::from_secs(60)), ..Policy::default() };
    let (deploying, _) = done(&awake(1), Event::Deploy { release: v(2) }, 0);
    assert_eq!(end(&deploying, &soon), Some(Timestamp(MINUTE)), "once that has ended");
    let (pinned, _) = done(&deploying, Event::Pin, 0);
    assert_eq!(end(&pinned, &soon), None);
    let unpinned = step(&pinned, &Event::Unpin, Timestamp(DAY), &soon);
    let Ok(Answer::Done(state, _)) = unpinned else { panic!("{unpinned:?}") };
    assert_eq!(end(&state, &soon), Some(Timestamp(2 * DAY)));
}
