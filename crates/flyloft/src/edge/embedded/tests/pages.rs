//! The edge's own pages.

use super::*;

#[tokio::test]
async fn an_unknown_host_gets_a_page_that_says_so() {
    let stage = Stage::new();
    let answer = stage.ask("GET / HTTP/1.1\nHost: nobody.test\n\n").await;
    insta::assert_snapshot!(undated(&answer), @r"
    HTTP/1.1 404 Not Found
    content-type: text/plain; charset=utf-8
    cache-control: no-store
    content-security-policy: default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'
    x-robots-tag: noindex
    content-length: 130

    Nothing is staged here
    No environment has the host name nobody.test. It may have been destroyed, or never pushed.

        flyloft ls
    ");
}

#[tokio::test]
async fn a_browser_gets_a_page_without_anything_from_elsewhere() {
    let stage = Stage::new();
    let answer = stage.ask("GET / HTTP/1.1\nHost: nobody.test\nAccept: text/html,*/*;q=0.8\n\n").await;
    assert!(answer.starts_with("HTTP/1.1 404 ") && answer.contains("\ncontent-type: text/html; charset=utf-8\n"));
    let (_, page) = answer.split_once("\n\n").unwrap();
    for outside in ["src=", "href=", "url(", "<script", "@import", "http"] {
        assert!(!page.contains(outside), "the page has `{outside}`");
    }
    let styled = page.find("<style>").unwrap()..page.find("</style>").unwrap();
    insta::assert_snapshot!(format!("{}<style>{}", &page[..styled.start], &page[styled.end..]), @r#"
    <!doctype html>
    <html lang="en">
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width">
    <title>Nothing is staged here</title>
    <style></style>
    <main>
    <small>404</small>
    <h1>Nothing is staged here</h1>
    <p>No environment has the host name nobody.test. It may have been destroyed, or never pushed.</p>
    <pre>$ flyloft ls</pre>
    </main>
    "#);
}

#[tokio::test]
async fn text_from_outside_is_never_part_of_the_page() {
    let stage = Stage::new();
    let why = "<script>alert(1)</script> & \"more\"".to_owned();
    stage.edge.set("shop.test", Route::public(env(), Target::Unavailable { why })).await.unwrap();
    for host in ["<script>alert(1)</script>", "\"onload=alert(1)", "shop.test"] {
        let answer = stage.ask(&format!("GET /<b> HTTP/1.1\nHost: {host}\nAccept: text/html\n\n")).await;
        let (_, page) = answer.split_once("\n\n").unwrap();
        assert!(!page.contains("<script>") && !page.contains("\"onload") && !page.contains("<b>"), "{answer}");
        assert!(
            answer.starts_with("HTTP/1.1 400 ") || answer.contains("\ncontent-security-policy: default-src 'none'")
        );
    }
}

#[tokio::test]
async fn an_environment_that_does_not_run_says_why() {
    let stage = Stage::new();
    let target = Target::Unavailable { why: "It has been stopped by its owner.".into() };
    stage.edge.set("shop.test", Route::public(env(), target)).await.unwrap();
    let answer = stage.ask("GET / HTTP/1.1\nHost: shop.test\n\n").await;
    assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable\n"), "{answer}");
    assert!(answer.ends_with("\n\nshop/main is not available\nIt has been stopped by its owner.\n"), "{answer}");
}

#[tokio::test]
async fn an_app_that_does_not_listen_gets_a_page_that_names_it_and_its_logs() {
    let app = App::start(echo_head).await;
    let stage = Stage::new();
    stage.route("shop.test", app.address).await;
    let address = app.address;
    drop(app);
    eventually("the app is gone", || std::net::TcpStream::connect(address).is_err()).await;
    let answer = stage.ask("GET / HTTP/1.1\nHost: shop.test\n\n").await;
    assert!(answer.starts_with("HTTP/1.1 502 Bad Gateway\n"), "{answer}");
    insta::assert_snapshot!(answer.split_once("\n\n").unwrap().1, @r"
    shop/main did not answer
    Its web process does not listen: it has ended, or is still starting.

        flyloft logs shop/main
    ");
}

#[tokio::test]
async fn an_app_that_dies_before_it_answers_gets_a_page_too() {
    for last_words in ["", "HTTP/1.1 200 O", "not HTTP at all\r\n\r\n"] {
        let stage = Stage::new()
            .app(move |mut peer: Peer| async move {
                peer.read_head().await;
                peer.say(last_words).await;
            })
            .await;
        let answer = stage.ask("GET / HTTP/1.1\nHost: shop.test\n\n").await;
        assert!(answer.starts_with("HTTP/1.1 502 Bad Gateway\n"), "{last_words}: {answer}");
        assert!(answer.contains("flyloft logs shop/main"), "{answer}");
    }
}
