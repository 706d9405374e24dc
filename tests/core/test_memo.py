from serving.core.memo import Memo


def test_the_oldest_goes_when_there_are_too_many() -> None:
    memo: Memo[int, str] = Memo()
    for number in range(300):
        memo.keep(number, str(number))
    assert len(memo) == 256
    assert (memo.get(43), memo.get(44), memo.get(299)) == (None, "44", "299")
