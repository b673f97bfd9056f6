import pytest

from lib.vocabulary import Vocabulary, normalize, read_alphabet, read_vocabulary, vocabulary_of


@pytest.mark.parametrize(('voc_type', 'classes'), [('LOWERCASE', 39), ('ALLCASES', 65), ('ALLCASES_SYMBOLS', 97)])
def test_class_counts_of_asters_vocabularies(voc_type, classes):
    assert len(Vocabulary(voc_type)) == classes
    assert vocabulary_of(classes).voc_type == voc_type


def test_specials_come_last():
    vocabulary = Vocabulary()
    assert (vocabulary.eos, vocabulary.padding, vocabulary.unknown) == (94, 95, 96)
    assert vocabulary.encode('0aZ~') == [0, 10, 61, 93, 94]


def test_strings_come_back():
    vocabulary = Vocabulary()
    text = vocabulary.characters
    assert vocabulary.decode(vocabulary.encode(text) + [5, 5]) == text  # what stands behind EOS is not read


def test_foreign_characters_are_unknown_and_print_nothing():
    vocabulary = Vocabulary('LOWERCASE')
    ids = vocabulary.encode('Ca\u00f1on 1')
    assert ids.count(vocabulary.unknown) == 2
    assert vocabulary.decode(ids) == 'caon1'


def test_unknown_types_and_sizes_are_refused():
    with pytest.raises(ValueError, match='KLINGON'):
        Vocabulary('KLINGON')
    with pytest.raises(ValueError, match='98'):
        vocabulary_of(98)


@pytest.mark.parametrize(('word', 'counts'),
                         [('Hello!', 'hello'), ('$10.00', '1000'), ('\u00c9cole', 'cole'), ('--', '')])
def test_only_letters_and_digits_count(word, counts):
    assert normalize(word) == counts


def test_case_of_ones_own():
    """A case without classes of its own is read as the other; with both, each is itself."""
    assert Vocabulary('LOWERCASE').encode('aB') == Vocabulary('LOWERCASE').encode('Ab')
    assert Vocabulary(alphabet='AB').encode('ab') == [0, 1, 2]
    assert Vocabulary(alphabet='ABab').encode('ab') == [2, 3, 4]


@pytest.mark.parametrize(('alphabet', 'word'), [
    ('αβγδλοπρσςθινηκ', 'ΟΔΟΣ'), ('αβγδλοπρσςθινηκ', 'λόγος'.replace('ό', 'ο')), ('ΑΓΔΛΟΠΡΣ', 'οδος'),
    ('abdıirst', 'ISPARTA'.replace('P', 'B')), ('abdiırst', 'DIR'), ('abdiırst', 'İbb'), ('ABDIR', 'İbb')])
def test_what_a_label_is_trained_as_is_a_right_reading_of_it(alphabet, word):
    """Also where the case of a letter depends on its place or language: the sigma at an end, i without its dot."""
    vocabulary = Vocabulary(alphabet=alphabet)
    ids = vocabulary.encode(word)
    assert vocabulary.unknown not in ids and vocabulary.same(vocabulary.decode(ids), word)
    assert not vocabulary.same(vocabulary.decode(ids[1:]), word)


def test_an_alphabet_from_a_file(tmp_path):
    path = tmp_path / 'letters.txt'
    path.write_text('\ufeff\u03b1 \u03b2\n\ne\u0301 \u03b1+\n', encoding='utf-8')
    vocabulary = read_vocabulary(str(path))
    assert vocabulary.characters == vocabulary.alphabet == '\u03b1\u03b2\u00e9+' and len(vocabulary) == 7
    text = '\u03b2\u00e9+\u03b1'
    assert vocabulary.decode(vocabulary.encode(text)) == text
    assert vocabulary.encode('e\u0301\u0391z') == [2, 0, vocabulary.unknown, vocabulary.eos]  # composed, other case
    assert vocabulary_of(7, vocabulary.alphabet).characters == vocabulary.characters


def test_the_characters_of_a_known_vocabulary_are_that_vocabulary(tmp_path):
    (tmp_path / 'own.txt').write_text('\n'.join(Vocabulary('LOWERCASE').characters))
    assert read_vocabulary(tmp_path / 'own.txt').voc_type == 'LOWERCASE'
    assert read_vocabulary(tmp_path / 'own.txt').alphabet is None and read_vocabulary('ALLCASES').alphabet is None


@pytest.mark.parametrize('content', [b'', b' \n\t\n', b'\xff\xfe\x41\x00'])
def test_files_without_an_alphabet_are_named(tmp_path, content):
    (tmp_path / 'none.txt').write_bytes(content)
    with pytest.raises(ValueError, match='none.txt: no'):
        read_alphabet(tmp_path / 'none.txt')


@pytest.mark.parametrize(('alphabet', 'string', 'label', 'same'), [
    (None, '!', '?!', None), (None, '', '\u5b57', None), (None, "It's", 'ITS!', True), (None, "It's", 'lts', False),
    ('\u03b1\u03b2', '\u03b1\u03b2', '\u0391\u03b2!', True), ('\u03b1\u03b2', '\u03b1', '\u03b1\u03b2', False),
    ('\u03b1\u03b2', '', '\u0436', False),  # what the alphabet lacks counts as not read
    ('0123456789', '12', 'A12', False), ('0123456789', '12', '1.2', True),
    ('+-', '+', '+-', False), ('\u0e01\u0e34', '\u0e01', '\u0e01\u0e34', False)])
def test_what_makes_a_word_right(alphabet, string, label, same):
    assert Vocabulary(alphabet=alphabet).same(string, label) == same


def test_with_case_sensitive_all_of_a_word_counts():
    vocabulary = Vocabulary(case_sensitive=True)
    assert [vocabulary.same("It's", string) for string in ("It's", "it's", 'Its')] == [True, False, False]
