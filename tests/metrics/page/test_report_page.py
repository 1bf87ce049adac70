"""The page of a report: every table once."""

from regionstyle.nodes.metrics.page.report_page import page_of

ONE = {"PSNR": {"name": "PSNR", "value": 31.25, "note": "8 bits"}, "SSIM": {"name": "SSIM", "value": 0.5, "note": ""}}
OTHER = {"PSNR": {"name": "PSNR", "value": 12.5, "note": "8 bits"}}


def report(*pictures):
    return {
        "mean": ONE,
        "by_foreground_ratio": {"5-15 %": pictures[0]},
        "pictures": [{"style": "red", "foreground_ratio": 0.1, "measurements": each} for each in pictures],
    }


def test_the_table_of_one_picture_stands_once():
    html = page_of("report", report(ONE), [])
    assert html.count("31.25") == 1
    assert html.count("<table>") == 1
    assert html.count("The same as mean.") == 2
    assert "<h3>measurements</h3>" in html
    assert "<p>red</p>" in html


def test_tables_that_differ_stand_each_and_names_are_escaped():
    html = page_of("report", report(ONE, OTHER), [])
    assert html.count("31.25") == html.count("12.5") == 1
    twice = page_of("report", {"<i>": {"a": 1}, "b": {"a": 1}, "c": [{"a": 1}, {"a": 2}], "d": {}}, [])
    assert twice.count("<table>") == 2
    assert twice.count("The same as &lt;i&gt;.") == 2
    assert "<i>" not in twice
