//! Payload filters: views of the environments of a project, each with a stream of its own.

use pilotlight::testing::demo::fake_launchdarkly::{FakeLaunchDarkly, StreamSelector};
use pilotlight::testing::demo::representations::FilterRep;

use pilotlight_test_kit::relay::{LONG, next_event};
use pilotlight_test_kit::scene::{
    Scene, assert_ends, code, environment, flag, flags, load, sdk, wait_for_code,
};

fn filter(project: &str, key: &str) -> FilterRep {
    FilterRep { proj_key: project.to_owned(), key: key.to_owned(), version: 0 }
}

/// Gives a filtered view a flag that bears its name.
fn fill(launchdarkly: &FakeLaunchDarkly, id: &str, key: &str) {
    launchdarkly.upsert_flag((id, key), flag(&format!("{key}-of-{id}"))).unwrap();
}

fn filtered(key: &str) -> String {
    format!("/all?filter={key}")
}

async fn filtered_code(scene: &Scene, id: &str, key: &str) -> u16 {
    code(&scene.relay, &format!("/sdk/latest-flags?filter={key}"), &sdk(id)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_filter_gives_each_environment_of_its_project_one_more_view() {
    let scene = Scene::start(|launchdarkly| {
        // Filters before, between and after their environments.
        launchdarkly.upsert_filter("f1", filter("web", "small"));
        load(launchdarkly, &environment("e1"));
        launchdarkly.upsert_filter("f2", filter("web", "odd key/ü"));
        launchdarkly.upsert_filter("f3", filter("other", "foreign"));
        load(launchdarkly, &environment("e2"));
        for id in ["e1", "e2"] {
            fill(launchdarkly, id, "small");
            fill(launchdarkly, id, "odd key/ü");
        }
    });
    scene.relay.wait_until_healthy(6).await;
    for id in ["e1", "e2"] {
        let (_, whole) = scene.stream(&sdk(id)).await;
        assert_eq!(flags(&whole), [format!("of-{id}")]);
        for (key, encoded) in [("small", "small"), ("odd key/ü", "odd%20key%2F%C3%BC")] {
            let (_, view) = scene.relay.stream_with_put(&filtered(encoded), &sdk(id)).await;
            assert_eq!(flags(&view), [format!("{key}-of-{id}")]);
        }
        assert_eq!(filtered_code(&scene, id, "foreign").await, 404);
        assert_eq!(filtered_code(&scene, id, "unknown").await, 404);
    }
    assert_eq!(filtered_code(&scene, "nobody", "small").await, 401);
    let mut asked: Vec<_> = scene
        .launchdarkly
        .requests_for("/all")
        .into_iter()
        .map(|request| format!("{} {}", request.authorization().unwrap(), request.query))
        .collect();
    asked.sort();
    let expected = ["e1", "e2"].map(|id| {
        ["", "filter=odd%20key%2F%C3%BC", "filter=small"].map(|query| format!("sdk-{id} {query}"))
    });
    assert_eq!(asked, expected.concat());
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_come_change_and_go_while_streams_are_open() {
    let scene = Scene::healthy(&["e1", "e2"].map(environment)).await;
    let (mut whole, _) = scene.stream(&sdk("e1")).await;
    assert_eq!(filtered_code(&scene, "e1", "small").await, 404);

    fill(&scene.launchdarkly, "e1", "small");
    scene.launchdarkly.upsert_filter("f1", filter("web", "small"));
    let (mut small, _) = scene.relay.stream_with_put(&filtered("small"), &sdk("e1")).await;
    // A patch of one view is no patch of another one.
    scene.launchdarkly.upsert_flag(("e1", "small"), flag("only-small")).unwrap();
    let (_, data) = next_event(&mut small).await;
    assert_eq!(data["path"], "/flags/only-small");

    // Under another key it is another view.
    fill(&scene.launchdarkly, "e1", "tiny");
    scene.launchdarkly.upsert_filter("f1", filter("web", "tiny"));
    assert_ends(&mut small).await;
    assert_eq!(filtered_code(&scene, "e1", "small").await, 404);
    let (mut tiny, put) = scene.relay.stream_with_put(&filtered("tiny"), &sdk("e1")).await;
    assert_eq!(flags(&put), ["tiny-of-e1"]);

    scene.launchdarkly.upsert_filter("f2", filter("web", "extra"));
    let path = "/sdk/latest-flags?filter=extra";
    wait_for_code(&scene.relay, path, &sdk("e2"), 200).await;
    scene.launchdarkly.delete_filter("f1");
    assert_ends(&mut tiny).await;
    assert_eq!(filtered_code(&scene, "e1", "tiny").await, 404);
    assert_eq!(filtered_code(&scene, "e2", "extra").await, 200);
    // Nothing of all that concerns the whole environment.
    scene.expect_patch("e1", &mut whole).await;
    let streams = StreamSelector::flags(("e1", "tiny"));
    scene.launchdarkly.wait_for_streams(&streams, 0, LONG).await.unwrap();
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_environment_that_moves_to_another_project_has_the_filters_of_that() {
    let scene = Scene::start(|launchdarkly| {
        launchdarkly.upsert_filter("f1", filter("web", "small"));
        launchdarkly.upsert_filter("f2", filter("app", "large"));
        load(launchdarkly, &environment("e1"));
        fill(launchdarkly, "e1", "small");
        fill(launchdarkly, "e1", "large");
    });
    scene.relay.wait_until_healthy(2).await;
    let (mut whole, _) = scene.stream(&sdk("e1")).await;
    let (mut small, _) = scene.relay.stream_with_put(&filtered("small"), &sdk("e1")).await;
    assert_eq!(filtered_code(&scene, "e1", "large").await, 404);

    let mut moved = environment("e1");
    moved.proj_key = "app".to_owned();
    scene.launchdarkly.upsert_environment(moved);
    assert_ends(&mut small).await;
    assert_eq!(filtered_code(&scene, "e1", "small").await, 404);
    let (_, put) = scene.relay.stream_with_put(&filtered("large"), &sdk("e1")).await;
    assert_eq!(flags(&put), ["large-of-e1"]);
    scene.expect_patch("e1", &mut whole).await;
    assert_eq!(scene.flag_requests(&sdk("e1")), 3, "whole, small, large");
    scene.assert_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn views_survive_a_cold_start_and_deleted_environments_take_theirs_along() {
    let scene = Scene::start(|launchdarkly| {
        launchdarkly.upsert_filter("f1", filter("web", "small"));
        for id in ["e1", "e2"] {
            load(launchdarkly, &environment(id));
            fill(launchdarkly, id, "small");
        }
    });
    scene.relay.wait_until_healthy(4).await;
    let (mut small, _) = scene.relay.stream_with_put(&filtered("small"), &sdk("e2")).await;
    scene.launchdarkly.delete_environment("e2");
    assert_ends(&mut small).await;
    assert_eq!(filtered_code(&scene, "e2", "small").await, 401);
    scene.launchdarkly.refuse();
    scene.launchdarkly.cut_connections();
    let scene = scene.restart(|_| {}).await;
    let (_, put) = scene.relay.stream_with_put(&filtered("small"), &sdk("e1")).await;
    assert_eq!(flags(&put), ["small-of-e1"]);
    // The list may be outdated, so that nothing is refused for good.
    assert_eq!(filtered_code(&scene, "e1", "unknown").await, 503);
    assert_eq!(filtered_code(&scene, "e2", "small").await, 503);
    scene.assert_sound();
}
