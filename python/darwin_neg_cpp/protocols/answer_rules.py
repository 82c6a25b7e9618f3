"""How people say which letter the answer is, language by language.

A row holds fragments of regular expressions. "@" is a letter that stands for itself, "~" the end of what is said of it
(a full stop, the end of the line, "because" and the like), and letter case does not matter except in "@". Rows are
joined before they are used: every language's words are read in every answer, because models mix them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Language:
    """What a language says around the letter of an answer.

    answer: what marks that an answer follows. between: words between this and the letter. says: those of them that make
        it a statement; a colon does too.
    leads: what may stand before a letter that begins a statement, such as "option". right: what then follows it.
    sentences: other sentences that name the answer. therefore: what a letter that is all of a conclusion follows.
    supposed: what denies or supposes a statement that it stands before. rejected: what follows a letter that is denied.
    negated: denies the letter after it. instead: between a letter that is denied and the one that is right.
    alternative: between two letters of which either may be right. because: words after a letter that leave it a letter,
        where others would make "A" an article.
    spaced: whether words end at spaces.
    """

    name: str
    answer: str
    between: str = ""
    says: str = ""
    leads: str = ""
    right: str = ""
    sentences: tuple[str, ...] = ()
    therefore: str = ""
    supposed: str = ""
    rejected: str = ""
    negated: str = ""
    instead: str = ""
    alternative: str = ""
    because: str = ""
    spaced: bool = True


_CHOICE = r"(?:(?:the )?(?:option|choice|answer|letter|alternative|statement|answer choice) )?"

ENGLISH = Language(
    "English",
    answer=r"answers?|ans|(?:correct|right|best|selected|chosen|final) (?:option|choice|letter|pick|selection"
    r"|alternative)"
    r"|(?:my|our) (?:choice|pick|selection|verdict)",
    between=r"is|be|to|should|would|must|will|was|the|therefore|thus|then|clearly|most|likely|option|choice|letter"
    r"|correct"
    r"|answer(?= @)",
    says=r"is|be|was",
    leads=r"(?:answer )?(?:options?|choices?)|answer|letter|statement|alternative|so|thus|hence|therefore|then|only"
    r"|but|and"
    r"|i (?:think|believe|conclude|say)"
    r"|(?:conclude|see|means?|follows?|implies|know|find|clear|believe|think|confident|indicates?|confirms?"
    r"|shows?) that",
    right=r"(?:is|must be|would be|has to be|should be|seems to be|appears to be|seems|appears)"
    r" (?:(?:therefore|thus|clearly|indeed|definitely) )?"
    r"(?:(?:the )?(?:most likely )?(?:only )?(?:correct|right|best|final|true)(?: (?:answer|option|choice|one"
    r"|statement))?"
    r"|the (?:only )?(?:answer|one))~",
    sentences=(
        # {"reasoning": "...", "choice": "D"}
        r"\"(?:answer_?)?(?:choice|option|letter|selection|prediction|label)\" ?: ?@",
        # "I choose C", "so we pick C", not "I would not choose C"
        r"(?:\b(?:i|we|let's|let us|let me|i'd|i'll|i'm|i am|we'd|we'll|we're)"
        r"(?: (?:will|would|must|should|can|therefore"
        r"|thus|then|hence"
        r"|have to"
        r"|am going to|shall|finally|now|say|can only)){0,2}|(?<![^\n.,;:!] )\bso|\btherefore|\bthus|\bhence)[, ] ?"
        rf"(?:choose|pick|select|go with|going with|went with|chose|picked|selected|opt for|settle on"
        rf"|answer|say) {_CHOICE}@~",
        # "Solution: B", "Choice: B", "Correct: B" in a line of their own
        r"(?<![^\n])(?:(?:my|the|final|correct|chosen|selected) )?(?:solution|choice|option|pick|verdict|conclusion"
        r"|selection"
        rf"|letter|correct|final|result|decision) ?[:=→–—-] ?{_CHOICE}@~",
        r"\b(?:corresponds to|corresponding to|matches|matching|is consistent with|agrees with|points to|which is"
        r"|that is"
        r"|i\.e\.,?|namely) (?:the )?(?:answer )?(?:option|choice|answer) @~",
        rf"\b(?:leaves|leaving)(?: us)?(?: with)?(?: only| just)? {_CHOICE}@(?:~| as the (?:only "
        rf"|correct )*(?:answer|option))",
        rf"(?<![\w'])it (?:must|has to|can only)(?: therefore| thus)? be {_CHOICE}@~",
        rf"\b(?:makes|making|leaves|leaving|gives|giving)(?: us)? {_CHOICE}@ (?:as )?(?:the|our) (?:(?:only|best"
        rf"|most likely|final|correct"
        r"|right) ){0,3}(?:answer|option|choice|one)\b",
        rf"\bonly {_CHOICE}@ (?:(?:remains|is left|survives|works|fits|qualifies|makes sense|is possible)~"
        rf"|can be (?:correct|right))",
        rf"\bmy (?:money|bet|vote|guess|best guess|choice|answer) (?:is|goes|would be)(?: on| for| to)? {_CHOICE}@~",
        rf"\b(?:i|we) (?:think|believe|guess|suspect|conclude)(?: that)? (?:it['’]?s|it is|it must be|it has to be)"
        rf"(?: probably| clearly)? {_CHOICE}@~",
        rf"\banswer['’]s (?:clearly |probably )?{_CHOICE}@~",
        # "the option that best explains the data is C"
        r"\bthe (?:only )?(?:option|choice|statement|alternative|one)(?: (?!(?:not|never|wrong|incorrect|false|least"
        r"|worst|fails?"
        r"|violates?|contradicts?|ignores?|overlooks?|is|ruled|eliminated|\w{1,10}n['’]t)\b)[\w'’-]{1,20}){1,10}?"
        rf" (?:is|must be|would be) (?:therefore |thus )?{_CHOICE}@~",
        # "It's B." in a line of its own
        rf"(?<![^\n])(?:so |well, |then )?it(?:['’]s| is) {_CHOICE}@[.!]?(?=\n|\Z)",
        # "(C), since ..." at the beginning of a line
        rf"(?<![^\n]){_CHOICE}@,? (?:because|since)\b",
        rf"\bthe (?:only )?(?:correct|right|true) (?:one|statement|option) (?:is|must be) {_CHOICE}@~",
    ),
    therefore=r"therefore|thus|hence|so|by (?:process of )?elimination|accordingly|consequently|in conclusion|ergo",
    supposed=r"(?:(?:second|least(?: likely)?|worst|second[- ]best|next best|when(?:ever)?|at first|initially"
    r"|originally)(?:,| [\w ]{1,12})?|(?:wrong|incorrect|false|not|(?:if|whether"
    r"|could|can|might|suppose|supposing|assuming|assume"
    r"|unless|doubt"
    r"|unlikely|check)(?: that)?)(?: (?:the|an?|your|my|this|that))?(?: (?:only|correct|right|best|final|true|option"
    r"|choice))*"
    # 'the student wrote "the answer is A"', "some say the answer is A"
    r"|\b(?:say|says|said|write|wrote|writes|written|claims?|claimed|argues?|argued|thinks?|thought|replied|answers"
    r"|answered)[,:]? [\"“'‘«](?:the )?(?:(?:correct|right|final|best) )?"
    r"|\b(?:some|many|most|people|students?|others|they)(?: \w{1,12}){0,2} (?:say|think|claim|argue|believe)(?: that)?"
    r"(?: the)?(?: (?:correct|right|best))?)",
    rejected=r" (?:is|was|seems|looks|would be)(?: (?:also|clearly|obviously|definitely|therefore|simply))? "
    r"(?:incorrect|wrong|false|untrue|impossible|excluded|eliminated|ruled out|not)\b"
    r"| (?:isn['’]t|wasn['’]t|cannot be|can['’]t be)\b",
    negated=r"(?:is|was) (?:certainly |clearly |definitely )?not|isn['’]t|wasn['’]t|cannot be|can['’]t be",
    instead=r"but(?: rather)?|rather|instead|it['’]?s|it is|it must be",
    alternative=r"or(?: [a-z]{2,10}(?= ))?|and",
    because=r"because|since|as|which|with|is|but|not|and|or",
)

KOREAN = Language(
    "Korean",
    answer=r"정답|(?<!오)답|(?:옳은|맞는|적절한|알맞은|올바른|적합한|타당한) (?:것|보기|선택지|선택|설명|답안)",
    between=r"은|는|이|가|선택지|보기|옵션|바로",
    says=r"은|는|이|가",
    leads=r"선택지|보기|옵션|중|중에서|따라서|그러므로|즉|결국|그래서|결론적으로|최종적으로|때문에|나는|저는"
    r"|(?<=[가-힣])(?:면|므로|서|니|는|은|로|에|고|데|만)|따라|의해|통해|볼 때",
    right=r"(?:번)?[이가은는]? ?(?:바로 )?(?:가장 )?(?:정답(?:입니다"
    r"|이다|이에요|예요|임|이므로|이며|이라고 (?:할|볼|생각|판단)"
    r"|이 (?:됩니다|된다)|으로 (?:판단|보)|~)|맞(?:습니다|다|아요"
    r"|는 (?:답|선택|설명))|옳(?:습니다|다|은 (?:답|선택|설명))"
    r"|적절(?:합니다|하다|한 (?:답|선택|설명))|올바(?:릅니다|르다|른 (?:답|선택|설명))|타당(?:합니다|하다)"
    r"|적합(?:합니다|하다)|알맞(?:습니다|다))",
    sentences=(
        r"(?<![^\n])(?:선택지 |보기 )?@번?(?:입니다|이다|예요|이에요)[.!]?(?=\n|\Z)",
        r"@번?[을를] (?:정답으로 |답으로 )?(?:(?:선택|택)(?:합니다"
        r"|했습니다|하겠습니다|한다|했다|하였습니다|할게요|해야 (?:합니다|한다))"
        r"|고르겠습니다|고릅니다|골랐습니다|고른다|골라야 (?:합니다|한다))",
    ),
    therefore=r"따라서|그러므로|그래서|결론적으로|즉|고로",
    supposed=r"만약(?: [가-힣]{1,10})?|만일(?: [가-힣]{1,10})?|틀린|잘못된",
    rejected=r"번? ?[이가은는]? ?아[니닙닌]",
    alternative=r"또는|이나|혹은|[와과]",
    spaced=False,
)

CHINESE = Language(
    "Chinese",
    answer=r"答案|正确(?:的)?(?:选项|选择|说法)|正確(?:的)?(?:選項|選擇|說法)",
    between=r"为|為|是|选项|選項|选|選|应为|應為|应选|應選|应该是|應該是|就是|即",
    says=r"为|為|是|选|選",
    leads=r"选项|選項|所以|因此|故|因而|則|则|即|可知|可见|只有|综上(?:所述)?|綜上(?:所述)?|其中|显然|顯然|最终|最終|認為|认为",
    right=r"(?:项|項|选项|選項)?(?:(?:就)?[是为為])?(?:最|唯一)?(?:正确|正確|对|對|符合题意|符合題意|合适|恰当)(?:的)?"
    r"(?:答案|选项|選項|选择|選擇|说法|說法)?~",
    sentences=(
        r"(?:正确|正確|对|對)的(?:选项|選項)?(?:就?是|为|為) ?(?:选项|選項)?@(?:项|項)?~",
        r"(?:(?<!不)(?:故|应|應|应该|應該|我|因此|所以|答案|本题|本題|此题|此題|可|直接|最终|最終|会|會|则|則|者|项|項|题|題)"
        r"|[:,;。!、\n ]|^) ?(?:选择|選擇|选|選) ?:? ?(?:选项|選項)?@(?:~| ?[项項])",
    ),
    therefore=r"所以|因此|故|综上(?:所述)?|綜上(?:所述)?|因而",
    supposed=r"如果|若|假如|假设|假設|要是|是否|倘若|不是|并非|並非|错误的?|錯誤的?|不",
    rejected=r" ?(?:不正确|不正確|错误|錯誤|不对|不對|不是)",
    negated=r"不是|并非|並非|并不是|不应是|不可能是",
    instead=r"而是|而应是|应该是|應該是",
    alternative=r"或者?|和|与|與|及",
    spaced=False,
)

JAPANESE = Language(
    "Japanese",
    answer=r"答え|正解|正答|解答|回答|(?:正しい|適切な|最も適切な)(?:もの|の|選択肢|答え|記述)",
    between=r"は|が|選択肢|番",
    says=r"は|が",
    leads=r"選択肢|よって|したがって|従って|ゆえに|より|から|ので|つまり|結局|中で|うち|ため|だから",
    right=r"番?[がは] ?(?:最も)?(?:正解|正答|適切|正しい(?:答え|選択肢)?"
    r"|答え)(?:です|である|だ|となる|となります|と(?:言える|考えられる)|であると(?:言え|考えられ|判断でき)(?:る|ます)"
    r"|になります|になる)?(?:ね|よ)?~",
    sentences=(
        r"(?<![^\n])(?:選択肢)?@(?:です|である)[。.]?(?=\n|\Z)",
        r"@を(?:(?:選び|選択し)(?:ます|ました|た)|(?:選ぶ|選択する)~)",
        r"@と(?:判断|考え)(?:します|ます|られます|できます)",
    ),
    therefore=r"したがって|従って|よって|ゆえに|つまり|以上より|以上から|だから",
    supposed=r"もし|仮に|間違った|誤った",
    rejected=r" ?(?:では|じゃ)(?:な|あり)",
    alternative=r"または|あるいは|か|と",
    spaced=False,
)

SPANISH = Language(
    "Spanish",
    answer=r"respuestas?|(?:opción|alternativa) correcta",
    between=r"es|la|el|sería|opción|letra|alternativa|correcta|por tanto|por lo tanto|entonces|final",
    says=r"es|sería",
    leads=r"(?:la |el )?(?:opción|respuesta|alternativa|letra|afirmación|inciso)(?: correcta es)?|la"
    r"|por (?:lo )?tanto|así que"
    r"|entonces|luego|s[oó]lo|únicamente|concluimos que|creo que",
    right=r"(?:es|sería) (?:la |el )?(?:(?:única|mejor) )?(?:(?:respuesta|opción|alternativa) )?(?:más )?"
    r"(?:correct[ao]|adecuad[ao]|verdader[ao]|ciert[ao]|acertad[ao])(?: respuesta)?~|es la (?:respuesta|opción"
    r"|alternativa)~",
    sentences=(
        r"(?:(?<![^\n])|(?<=[.;:] ))es (?:la )?(?:opción|alternativa|letra|respuesta) @~",
        r"\bl[ao] correct[ao] es (?:la |el )?@~",
        r"(?<!no )\b(?:elijo|escojo|selecciono|elegimos|elegiría|escogería|me quedo con|opto por)(?: (?:la|el))?"
        r"(?: (?:opción|respuesta|letra|alternativa))? @~",
    ),
    therefore=r"por (?:lo )?tanto|por consiguiente|así que|luego|entonces|en conclusión",
    supposed=r"\b(?:si|no|aunque)(?: (?:la|el|una))?(?: (?:opción|respuesta|alternativa))*|incorrecta|falsa",
    rejected=r" (?:no es|es (?:incorrect[ao]|fals[ao]|erróne[ao]))\b",
    negated=r"no es|no sería|no puede ser",
    instead=r"sino(?: que)?(?: es)?",
    alternative=r"o|y",
    because=r"porque|ya que|pues|y|o",
)

GERMAN = Language(
    "German",
    answer=r"antwort(?:option|möglichkeit)?|(?:richtige|korrekte|beste) (?:option|wahl|lösung|aussage|möglichkeit)"
    r"|lösung(?= ?:| ist)",
    between=r"ist|lautet|wäre|also|somit|demnach|daher|die|option|buchstabe|antwort(?= @)",
    says=r"ist|lautet|wäre",
    leads=r"(?:die )?(?:antwort(?:möglichkeit)?|option|aussage|möglichkeit|lösung)|nur|also|daher|somit|folglich"
    r"|demnach",
    right=r"(?:ist|wäre) (?:(?:also|somit|damit|daher|hier|demnach|eindeutig) )?(?:die |das )?"
    r"(?:(?:richtige|korrekte|beste|einzig richtige)n? (?:antwort|lösung|option|wahl|aussage)|richtig|korrekt"
    r"|zutreffend|wahr)~"
    r"|(?:stimmt|trifft zu)~",
    sentences=(
        r"\b(?:also|somit|damit|daher|folglich|demnach|deshalb|deswegen|hier) (?:ist|muss|wäre|stimmt) (?:antwort "
        r"|option )?@ "
        r"(?:die )?(?:richtig|korrekt|best)",
        r"\b(?:ist|lautet|wäre) (?:also |somit |demnach )?die (?:richtige |korrekte |beste )?(?:antwort|lösung"
        r"|option) @~",
        r"(?:(?<![^\n])|(?<=[.;:] ))es ist (?:die )?(?:antwort|option) @~",
        r"\b(?:richtig|korrekt) ist (?:also |daher |somit )?(?:antwort |option )?@~",
        r"\bich (?:wähle|nehme|entscheide mich für|tippe auf)(?: daher| also| hier)?(?: (?:die )?(?:antwort|option"
        r"|lösung))? @~",
    ),
    therefore=r"also|daher|somit|folglich|deshalb|demnach|deswegen",
    supposed=r"\b(?:wenn|falls|ob|nicht|angenommen,?|wäre)(?: (?:die|das|eine))?(?: (?:richtige|korrekte|antwort"
    r"|option))*|falsche",
    rejected=r" ist (?:falsch|inkorrekt|nicht)\b",
    negated=r"(?:ist|lautet) nicht|nicht",
    instead=r"sondern",
    alternative=r"oder|und",
    because=r"weil|denn|da|und|oder|ist",
)

FRENCH = Language(
    "French",
    answer=r"réponses?|(?:bonne|meilleure) (?:option|proposition)|(?:option|proposition) (?:correcte|exacte|juste)",
    between=r"est|la|le|serait|donc|option|l['’]option|lettre|finale|correcte|exacte|bonne",
    says=r"est|serait",
    leads=r"(?:la |l['’])?(?:réponse|option|proposition|affirmation|lettre)|donc|seule(?: la)?|ainsi|alors",
    right=r"(?:est|serait) (?:(?:donc|bien|ainsi) )?(?:(?:la|le) )?(?:(?:seule|bonne|correcte|meilleure) ){0,2}"
    r"(?:réponse(?: (?:correcte|exacte|juste))?|option(?: correcte)?|correcte?|exacte?|juste|vraie?|bonne)~",
    sentences=(
        r"\bil s['’]agit (?:donc )?de (?:la |l['’])?(?:réponse |option |proposition |lettre )?@~",
        r"\bc['’]est (?:donc |bien |ainsi )?(?:la |l['’])?(?:réponse |option |proposition |lettre )?@"
        r"(?: qui est (?:correcte?|juste|exacte?|vraie?)|~)",
        r"\bje (?:choisis|sélectionne|prends|retiens|opte(?:rais)? pour|choisirais)(?: donc)?"
        r"(?: (?:la |l['’])?(?:réponse|option|proposition|lettre))? @~",
    ),
    therefore=r"donc|par conséquent|ainsi|alors|en conclusion",
    supposed=r"\b(?:si|pas|même si)(?: (?:la|le|une|l['’]))?(?: (?:bonne|réponse|option))*|mauvaise|fausse",
    rejected=r" (?:n['’]est pas|est (?:fausse?|incorrecte?|inexacte?))\b",
    negated=r"n['’]est pas|ne peut pas être|n['’]est donc pas",
    instead=r"mais(?: bien)?|c['’]est",
    alternative=r"ou|et",
    because=r"car|parce que|puisque|ou|et",
)

PORTUGUESE = Language(
    "Portuguese",
    answer=r"respostas?|gabarito|(?:alternativa|opção) (?:correta|certa)",
    between=r"é|seria|(?:a |o )?(?:letra|opção|alternativa)|a(?= @)|correta|certa|final|portanto",
    says=r"é|seria",
    leads=r"(?:a |o )?(?:alternativa|opção|letra|resposta|afirmação|item)(?: (?:correta|certa) é)?|portanto|logo|assim"
    r"|então|s[óo]|apenas|somente",
    right=r"(?:é|está|seria) (?:(?:a|o) )?(?:(?:única|melhor) )?(?:(?:resposta|opção|alternativa) )?"
    r"(?:corret[ao]|cert[ao]|verdadeir[ao]|adequad[ao])~|é a (?:resposta|opção|alternativa)~",
    sentences=(
        r"(?<!não )\b(?:escolho|seleciono|escolhemos|escolheria|marco|marcaria|fico com|opto p(?:ela|or))(?: (?:a|o))?"
        r"(?: (?:opção|alternativa|letra|resposta))? @~",
    ),
    therefore=r"portanto|logo|assim|então|em conclusão|dessa forma",
    supposed=r"\b(?:se|caso|não)(?: (?:a|o|uma))?(?: (?:resposta|opção|alternativa))*|errada|incorreta|falsa",
    rejected=r" (?:não (?:é|está)|(?:é|está) (?:incorret[ao]|errad[ao]|fals[ao]))(?!\w)",
    negated=r"não é|não seria|não pode ser",
    instead=r"mas(?: sim)?(?: a)?|e sim(?: a)?",
    alternative=r"ou|e",
    because=r"porque|pois|já que|ou|e",
)

RUSSIAN = Language(
    "Russian",
    answer=r"ответ(?:ом)?|(?:правильн|верн)\w{2,3} (?:вариант|выбор|утверждение)(?: ответа)?",
    between=r"это|является|вариант|буква|под буквой|пункт|будет",
    says=r"это|является|будет",
    leads=r"вариант|ответ|пункт|буква|следовательно|значит|итак|поэтому|только|утверждение|таким образом",
    right=r"(?:[-–—] |[-–—] это |это |является )?(?:(?:единственн|сам)\w{2,3} )?(?:правил(?:ьн\w{2,3}|ен)"
    r"|вер(?:н\w{1,3}|ен))"
    r"(?: (?:ответ|вариант|выбор)(?:ом)?)?(?: ответа)?~",
    sentences=(
        r"(?<!не )\b(?:выбираю|выберу|выбираем|выбрал|выбрала)(?: (?:вариант|ответ))? @~",
        r"(?<!не )\b(?:правильн|верн)\w{2,3} (?:ответом )?(?:является|будет) (?:вариант |ответ )?@~",
        r"(?<!не )\b(?:правильный|верный) (?:ответ|вариант) @~",
        r"\b(?:таким образом|значит|итак|следовательно|поэтому),? ответ @~",
    ),
    therefore=r"следовательно|значит|итак|поэтому|таким образом",
    supposed=r"\b(?:если|не|будто)(?: бы)?(?: (?:правильный|верный|вариант|ответ))*|неправильный|неверный",
    rejected=r" (?:[-–—] )?(?:неверен|неверно|неправил\w{2,6}|неверн\w{2,3}|не (?:является|верен|правил\w{2,6}))",
    negated=r"не|это не|[-–—] не",
    instead=r"а|но",
    alternative=r"или|и",
    because=r"потому|так как|поскольку|и|или",
)

ITALIAN = Language(
    "Italian",
    answer=r"rispost[ae]|(?:opzione|alternativa) (?:corretta|giusta)|soluzione(?= ?:)",
    between=r"è|la|l['’]opzione|opzione|lettera|corretta|esatta|giusta|quindi|sarebbe",
    says=r"è|sarebbe",
    leads=r"(?:la |l['’])?(?:opzione|risposta|lettera|affermazione)|quindi|pertanto|dunque|solo",
    right=r"è (?:(?:quindi|dunque) )?(?:la )?(?:(?:risposta|opzione) )?(?:corretta|giusta|esatta|vera|risposta)~",
    sentences=(r"(?<!non )\b(?:scelgo|seleziono|scegliamo)(?: (?:la |l['’])?(?:risposta|opzione|lettera))? @~",),
    therefore=r"quindi|pertanto|dunque|perciò",
    supposed=r"\b(?:se|non)(?: la)?(?: (?:risposta|opzione))*|sbagliata|errata",
    rejected=r" (?:non è|è (?:sbagliata|errata|falsa))\b",
    negated=r"non è",
    instead=r"ma|bensì",
    alternative=r"o|oppure",
    because=r"perché|poiché",
)

DUTCH = Language(
    "Dutch",
    answer=r"antwoord|juiste (?:optie|keuze)",
    between=r"is|optie|dus|het|antwoord(?= @)",
    says=r"is",
    leads=r"(?:het )?(?:optie|antwoord|keuze)|dus|daarom",
    right=r"is (?:dus )?(?:(?:het|de) )?(?:juiste?|correcte?|goede)(?: (?:antwoord|optie|keuze))?~",
    sentences=(r"\bik (?:kies|ga voor)(?: (?:voor|optie|antwoord)){0,2} @~",),
    therefore=r"dus|daarom",
    supposed=r"\b(?:als|niet|of)(?: (?:het|de))?(?: (?:juiste|antwoord|optie))*|foute|verkeerde",
    rejected=r" is (?:niet|fout|onjuist|verkeerd)\b",
    negated=r"is niet",
    instead=r"maar",
    alternative=r"of|en",
    because=r"want|omdat|en|of",
)

POLISH = Language(
    "Polish",
    answer=r"odpowied(?:ź|zią)|poprawna opcja",
    between=r"to|jest|brzmi|poprawna|prawidłowa|opcja",
    says=r"to|jest|brzmi",
    leads=r"odpowiedź|opcja|więc|zatem|dlatego",
    right=r"(?:jest|to) (?:poprawn[aą]|prawidłow[aą]|właściw[aą])(?: (?:odpowied(?:ź|zią)|opcj[aą]))?~",
    sentences=(r"(?<!nie )\bwybieram(?: (?:odpowiedź|opcję))? @~",),
    therefore=r"więc|zatem|dlatego",
    supposed=r"\b(?:jeśli|jeżeli|nie|czy)(?: (?:odpowiedź|opcja))?|błędna",
    rejected=r" (?:nie jest|jest (?:błędna|niepoprawna|nieprawidłowa))",
    negated=r"nie jest|to nie",
    instead=r"ale|lecz|tylko",
    alternative=r"lub|albo|i",
    because=r"ponieważ|bo|lub|i",
)

TURKISH = Language(
    "Turkish",
    answer=r"cevap|cevabı|yanıt|doğru (?:seçenek|şık)",
    between=r"seçeneği|şıkkı|şudur",
    leads=r"cevap|yanıt|bu nedenle|dolayısıyla",
    right=r"(?:seçeneği|şıkkı)? ?(?:doğru(?:dur)?|doğru (?:cevap|yanıt|seçenek)(?:tır|tir)?)~",
    therefore=r"bu nedenle|dolayısıyla|yani",
    supposed=r"\b(?:eğer|yanlış)",
    rejected=r" (?:seçeneği |şıkkı )?(?:değil|yanlış)",
    alternative=r"veya|ya da|ve",
)

# of these, the word for "answer" and little else
BRIEFLY = (
    Language("Swedish", r"svaret|svar|rätt alternativ", r"är|alternativ", r"är"),
    Language("Czech", r"odpověď", r"je|správná", r"je"),
    Language("Indonesian", r"jawaban(?:nya)?", r"adalah|yang|benar|tepat|ialah|opsi", r"adalah|ialah"),
    Language("Vietnamese", r"đáp án|câu trả lời|phương án đúng", r"là|đúng|chính xác", r"là"),
    Language("Ukrainian", r"відповідь|правильний варіант", r"це|варіант", r"це"),
    Language("Arabic", r"الإجابة|الجواب|إجابة", r"الصحيحة|النهائية|الصحيح|هي|هو|الخيار", r"هي|هو"),
    Language("Hindi", r"उत्तर|जवाब|सही विकल्प", r"है|विकल्प|सही", r"है"),
    Language("Bengali", r"উত্তর|সঠিক বিকল্প", r"হল|হলো", r"হল|হলো"),
    Language("Thai", r"คำตอบ(?:ที่ถูกต้อง)?", r"คือ|ข้อ", r"คือ", spaced=False),
)

LANGUAGES = (
    ENGLISH,
    KOREAN,
    CHINESE,
    JAPANESE,
    SPANISH,
    GERMAN,
    FRENCH,
    PORTUGUESE,
    RUSSIAN,
    ITALIAN,
    DUTCH,
    POLISH,
    TURKISH,
    *BRIEFLY,
)
