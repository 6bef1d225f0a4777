"""The plots of the story grammar, as templates (their language: `story_grammar.py`; line breaks count as spaces).

Keys without prefix belong to the hero, with ``f`` to the friend, with ``e`` to the elder.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plot:
    """The sentences between opening and ending, and the lesson that a story may close with."""

    text: str
    lesson: str


# Phrases that many sentences share: ``@key`` in a template stands for the phrase.
PHRASES = {
    "named": "[named|called]",
    "day": "[One|One <weather>|One <weather>|On a <weather>|Early one] <time>,",
    "felt": "[felt|was] [|very |so |a little |really ]",
    "young": "[|little |young |small |kind |funny |brave |merry ]",
    "home": """
        [near a <adj> <thing>|in a <adj> house|in a <look> <colour> house|by the river|on a <adj> hill|
        in a <adj> village|under a <adj> tree|next to a <adj> <thing>]
    """,
    "met": """
        [Then|Just then|Soon|After a while], [{he} met a @young{fkind} @named {fname}|
        a @young{fkind} came [by|along|down the road]. {Fhis} name was {fname}].
    """,
    # A name, or the kind instead of it, at the beginning of a sentence.
    "hero": "[{name}|{name}|The {kind}]",
    "friend": "[{fname}|{fname}|The {fkind}]",
    # What is seen on the way, by one and by two.
    "alone": """
        [{He} saw <number> <adj> <creatures> and a <adj> <thing>.|
        {He} [went|walked|ran] past a <adj> <thing>, a <colour> <thing> and <number> <creatures>.|
        <Adj> <creatures> and <adj> <creatures> [looked at|watched] {him}.|]
    """,
    "together": """
        [They saw <number> <adj> <creatures> and a <adj> <thing>.|
        They [went|walked|ran] past a <adj> <thing>, a <colour> <thing> and <number> <creatures>.|
        <Adj> <creatures> and <adj> <creatures> [looked at|watched] them.|]
    """,
}

OPENINGS = (
    "Once upon a time, there was a @young{kind} @named {name}.[| {name} lived @home.| {He} lived @home.]",
    "Once upon a time, there was a [little|{trait}] {kind} @named {name}[|, who lived @home].",
    "Once upon a time there was a [little|young|small|{trait}] {kind} @named {name}[|, who lived @home].",
    "Once upon a time, there lived a @young{kind}. {His} name was {name}.",
    "Once upon a time, a [little|young|{trait}] {kind} @named {name} lived @home.",
    "Once upon a time, @home, there lived a [little|small|{trait}] {kind} @named {name}.",
    "[Long ago|Once], there was a [little|young|{trait}] {kind} @named {name}.[| {He} lived @home.]",
    "{name} was a [little|young|small|very {trait}] {kind} who lived @home.",
)

BEFORE = (
    """{name} [liked|loved] to [play <game>|count <creatures>|eat <food>|eat <meal>|sit on a <adj> <thing>|
    look at the <creatures>|draw <colour> <creatures>|sing to the <creatures>].""",
    "Every <time>, {he} [ate <meal>|fed the <adj> <creatures>|ran around a <adj> <thing>|picked <food>].",
    "Near {his} home there was a <adj> <thing> with <number> <adj> <creatures>.",
    "{He} had <number> <adj> <creatures>, a <adj> <thing> and a <adj> <thing>.",
    "Everyone [liked|knew|loved] {name}, because {he} was [always|so|very] {trait}.",
)

PLOTS = (
    Plot(  # a lost toy is found
        """
        @hero had a <look> {colour} {toy}[| from {elder}| and played with it every <time>].
        @day {he} [went to {place}|played {atplace}], and when {he} came home, the {toy} was gone.
        @hero looked <nook>[|, <corner>] and <spot>. It was not there, and {he} @felt{sad}.
        @met "[What is wrong|Why are you {sad}|Can I help you]?" asked {fname}.
        "[I lost|I cannot find] my {colour} {toy}," said {name}.
        They [went|walked|ran] back to {place}. @together
        [At last|Suddenly|Then], {fname} saw something {colour} <spot>. It was the {toy}!
        @hero [hugged {fname}|jumped up and down|was so <glad>|gave {fname} some <food>].
        """,
        "{name} learned that [a good friend helps you look|it is good to ask for help].",
    ),
    Plot(  # somebody is stuck
        """
        @day {name} [went|walked] to {place} to [pick|look for|find] {food}. @alone
        Suddenly, {he} heard a <adj> voice. "[Help|Please help me|I am stuck]!" It was a {fkind} @named {fname}.
        {Fhe} was stuck [in the mud|in a net|in a <adj> <thing>|under a <adj> <thing>].
        @hero pulled and pulled, but it was too hard. So {he} [ran to {elder}|called {elder}] <fast>.
        {Elder} [brought|took] a <adj> [rope|stick|ladder] and <meal>. They pulled together, and {fname} was free.
        "[Thank you|You saved me|You are so {trait}], {name}!" {fhe} [said|cried].
        @friend gave {name} a <look> {colour} {gift}. @hero [put the {gift} <nook>|showed the {gift} to {elder}].
        """,
        "{name} learned that [nobody is too small to help|two are stronger than one].",
    ),
    Plot(  # a noise in the night
        """
        One <weather> night, {name} heard a noise <nook>. <Noise>! {He} @felt[scared|afraid] and
        [hid <nook>|held {his} {colour} {toy}|ate some <food>].
        Then {he} ran to {elder}. "[There is a monster <nook>|I am scared|I cannot sleep|I heard a noise]," {he} said.
        "[Let us look together|Let us go and see|Take my hand]," said {elder}.
        {Ehe} [took|picked up|lit] a <look> <colour> lantern and looked <spot>.
        There was no monster. It was only a <adj> {fkind} @named {fname}.
        "[I am cold|I lost my way|I am so hungry|I am looking for a <thing>]," <said> {fname}.
        @hero [laughed|smiled|was <glad>]. {He} gave {fname} <meal> and a <look> <colour> blanket.
        [Soon|In the end], they [fell asleep <spot>|played <game>|talked about <adj> <creatures>].
        """,
        "{name} learned that [a noise in the dark can be a friend|it helps to look at what you fear].",
    ),
    Plot(  # learning takes time
        """
        @hero wanted to learn to {skill}.
        [The <adj> <creatures> could do it|It looked so easy|{Elder} could {skill} very well].
        @day {he} tried it {where}, but {he} {failed}.
        [The <adj> <creatures>|A <adj> {small}|Everyone] laughed, and {name} @felt{sad}.
        @met "I can {skill}," <said> {fname}.
        "[I will show you|Let me teach you|It just takes time|Do not give up]."
        @hero tried [again and again|every <time>|for <number> days].
        @friend [helped {him}|told {him} what to do|sang a <adj> song], and {elder} brought <meal> and <food>.
        [Then, one <weather> <time>|At last], {name} {managed}.
        [Everyone|The <creatures>|{Elder}] [clapped|cheered|smiled].
        "[I can {skill}|Look at me]!" {he} [said|shouted]. "[I knew it|You did it|Well done], {name}!" said {fname}.
        """,
        "{name} learned that [you must not give up|everything is hard before it is easy].",
    ),
    Plot(  # sharing food
        """
        @day {elder} gave {name} <number> {food}, <meal> and a <adj> bottle of milk.
        @hero [took|carried] everything to {place}. @alone
        @met {fname} @felt[hungry|{sad}].
        "[I have had no food all day|My bag is empty|I lost my <food>]," <said> {fname}.
        @hero was hungry too. But then {he} [smiled|had an idea|looked at {fname}].
        "[Eat with me|Let us share|You can have some {food}]," <said> {name}. They sat <spot> and ate the {food}.
        [After that|Then], it began to rain. @hero had no umbrella, but {fname} had a <look> {colour} umbrella.
        They walked [home|to a <adj> <thing>|to {elder}] under the {colour} umbrella. @together
        """,
        "{name} learned that [food tastes better when you share it|a kind thing comes back to you].",
    ),
    Plot(  # a broken toy is mended
        """
        {name} and {his} friend {fname} the {fkind} played with a <look> {colour} {toy}.
        @day they were {atplace} when {fname} [dropped|fell on|sat on] the {toy}. <Noise>! It broke.
        "I am so sorry," <said> {fname}. {Fhe} @felt{sad}.
        @hero [wanted to cry|said nothing|was angry|looked at the <creatures>].
        "[Let us ask|Let us go to] {myelder}," said {name}. @together
        {Elder} looked at the {toy}. "[I can mend that|That is easy|We can do it together]," {ehe} said.
        {Ehe} took some <adj> <stuff> and some <colour> <stuff>.
        Soon, the {colour} {toy} was [as good as new|better than before|whole again]. @hero gave it to {fname}.
        "[You can play first|I am not angry any more|Let us play <game>]," {he} said.
        """,
        "They learned that [a friend is worth more than a {toy}|many broken things can be mended].",
    ),
    Plot(  # telling the truth
        """
        @hero had a friend, a @young{fkind} @named {fname}. They liked to play {game} together.
        @day they played {game} in the house of {elder}. @hero ran too fast. <Noise>! A <look> {colour} {pot} broke.
        @hero @felt[scared|afraid]. "[Let us hide it <nook>|Let us run away|We can say it was a {small}]," {he} said.
        "[No, tell the truth|That is not right|Let us say sorry]," said {fname} <softly>.
        So {name} went to {elder}. "I broke the {colour} {pot}," {he} said <softly>. {Elder} was not angry.
        "[Thank you for telling me|It was only a {pot}|That was brave of you]," {ehe} said.
        They made a new {pot} from <adj> <stuff> and <stuff>.
        @friend painted <number> <adj> <creatures> on it, and {name} painted a <adj> <thing>.
        """,
        "{name} learned that [the truth makes the heart light|it is brave to say sorry].",
    ),
    Plot(  # a small one is brought home
        """
        @day {name} found a <adj> baby {small} <spot>. The baby {small} was [all alone|crying|{sad}].
        "[Where is your mother|Where do you live|Are you lost]?" asked {name}.
        "[I do not know|I want to go home|I cannot find her]," said the baby {small}.
        @hero gave the baby {small} <food> and <food>. Then {he} went to {his} friend {fname} the {fkind}.
        "I saw a <adj> {small} {atplace}," said {fname}. They [walked|went] to {place}. @together
        [There|At last], they found the mother <spot>. "[My little one|There you are]!" she [said|cried].
        The mother gave {name} a <adj> {gift} and {fname} a <colour> {gift}.
        The baby {small} [waved|laughed|was <glad>].
        """,
        "{name} learned that [it feels good to help|even a long way is short with a friend].",
    ),
    Plot(  # building it twice
        """
        @hero had a friend, a @young{fkind} @named {fname}. @day they [wanted|began] to build {build} {atplace}.
        They took {weak} and worked [all <time>|very hard|for <number> hours].
        @hero [sang a <adj> song|made a plan|painted it <colour>], and
        @friend [held everything|looked for <stuff>|brought <meal>].
        But then came <wind>, and everything fell down. @friend @felt{sad}.
        @hero [kicked a <adj> <thing>|wanted to go home|sat <spot>].
        Then {elder} came with <food> and <meal>. "[Use {strong}|Try it with {strong}|You need {strong}]," {ehe} said.
        So they got {strong} and [began again|started over|worked for <number> days]. @together
        This time, it was [strong|perfect|better]. They [sat down|had a party] and ate <meal>.
        """,
        "They learned that [good work takes time|you can always try again].",
    ),
    Plot(  # a treasure
        """
        @day {name} found an old map <nook>. It showed {place}, a <adj> <thing> and a {colour} star.
        {He} ran to {his} friend {fname} the {fkind}. "[Look what I found|It is a treasure map]!" said {name}.
        "[Let us go there|We must find it]!" said {fname}.
        They went over a <adj> bridge and around a <adj> <thing>. @together
        [Soon|Then], {fname} @felt[tired|scared|{sad}], but {name} was {trait} and took {fhis} hand.
        [At last|After <number> hours], they came to {place}. They looked <spot> and found a <look> {colour} box.
        In the {colour} box there were <number> <adj> [shells|stones|coins|buttons|feathers|bells] and a <adj> {gift}.
        @hero gave the {gift} to [{fname}|{elder}].
        """,
        "{name} knew that [{fname} was the real treasure|it is good to share].",
    ),
    Plot(  # patience
        """
        @day {elder} gave {name} a <adj> {seed} seed. @hero planted it next to a <adj> <thing>.
        Every <time>, {he} gave it water and [sang a <adj> song|talked to it|ate <food>].
        But nothing came. @hero @felt{sad}.
        "[My seed is asleep|It does not grow|It is a bad seed]," {he} told {his} friend {fname} the {fkind}.
        "[You have to wait|Be patient|Give it time]," <said> {fname}.
        So they [played {game}|sat <spot>|counted <adj> <creatures>|drew <number> <creatures>] together.
        Then, one <weather> <time>, there was a <look> green leaf. It grew and grew, and
        [in summer|at the end of summer|after <number> weeks], there was {crop}!
        @hero [danced|jumped|laughed], and {fname} [clapped|sang a <adj> song|called the <creatures>].
        {Elder} made {seed} {dish}, and [everyone|all their friends|the <adj> <creatures>] came to eat.
        """,
        "{name} learned that [good things take time|you have to wait for the best things].",
    ),
    Plot(  # the race
        """
        @hero was slow, and {fname} the {fkind} was fast.
        "I am [the best|faster than you|the fastest {fkind}]!" {fname} [always said|said every <time>].
        @day {elder} made a race to {place}. <Adj> <creatures> and <adj> <creatures> came to watch.
        The prize was <meal>. @friend ran away <fast>.
        @hero went <softly> past a <adj> <thing> and <number> <creatures>.
        Then {he} heard a cry. "[Ouch|Help]!" {fname} had [hurt {fhis} foot|fallen over a <adj> <thing>].
        @hero stopped. "[Lean on me|Give me your hand|I will help you]," {he} said. They came to {place} side by side.
        {Elder} gave the prize to {name}. "[You are the real winner|You have a good heart]," {ehe} said.
        "[I am sorry|Thank you]," <said> {fname}.
        """,
        "{fname} learned that [being kind is better than being fast|winning is not everything].",
    ),
    Plot(  # a present made by hand
        """
        @hero had a friend, a @young{fkind} @named {fname}. [Soon|In <number> days], {fname} would have a birthday.
        @hero wanted to buy a {toy} for {fname}, but {he} had no money. {He} @felt{sad}.
        "[Make something|The best presents are made by hand|You have two good hands]," said {elder}.
        So {name} [went|walked|ran] to {place} and looked for <adj> <stuff> and <colour> <stuff>. @alone
        {He} worked for <number> days and made a <look> {colour} {toy} with
        <number> <colour> [stars|dots|flowers|<creatures>] on it.
        On the birthday, there was <meal>, and the <creatures> brought <food>.
        @hero [was shy|came last|smiled] and gave {fname} the {toy}.
        "[It is the best present of all|I love it|This is the best {toy} in the world]!" <said> {fname}.
        {Fhe} [hugged {name}|played with the {colour} {toy} all <time>].
        """,
        "{name} learned that [a present comes from the heart|what you make with love is never small].",
    ),
    Plot(  # a quarrel
        """
        @day {name} and {his} friend {fname} the {fkind} found a <look> {colour} {toy} {atplace}.
        "It is mine!" said {name}. "No, [it is mine|I saw it first]!" said {fname}.
        They pulled and pulled, and <noise>! The {toy} [fell into the water|fell into a <adj> <thing>].
        Now nobody had it. @hero @felt[{sad}|angry], and {fname} [went home|sat <spot>|began to cry].
        "[What is a {toy} without a friend|Is a {toy} worth it|Is that how friends play]?" {elder} asked <softly>.
        @hero [thought about it|looked at the ground|ate some <food>] and went to {fname}.
        "I am sorry," {he} said. "I am sorry too," <said> {fname}.
        They took a <adj> [stick|rope|ladder|net] and got the {colour} {toy} back. @together
        First {fname} played with the {toy}, then {name}, and then <number> <adj> <creatures>.
        """,
        "They learned that [it is more fun to share|taking turns is better than fighting].",
    ),
    Plot(  # somebody new
        """
        @day a @young{fkind} @named {fname} came to live near {name}. @friend was [new|shy] and knew nobody.
        The <creatures> and the <creatures> played {game} {atplace}, but nobody asked {fname}.
        {Fhe} sat [alone |]<spot> and @felt[lonely|{sad}].
        @hero saw {fhim} and [stopped|came over|brought some <food>].
        "[Hello|Hi], I am {name}," {he} said. "Do you want to play {game} with me?"
        "[I do not know how|I have never played it]," said {fname} <softly>.
        "[It is easy|I will show you|Do not be shy]," said {name}.
        So they played {game} [all <time>|for <number> hours]. <Adj> <creatures> came to [watch|play too].
        Then {fname} showed {name} {fhis} <look> {colour} {toy}. They took the {toy} to [{place}|{elder}]. @together
        """,
        "{name} learned that [one kind word can make a friend|a new friend is a gift].",
    ),
    Plot(  # losing the way
        """
        @day {name} went to {place} to find {food} for {elder}.
        {He} followed <number> <colour> <creatures> and lost the way.
        There was only a <adj> <thing> and a <adj> <thing>. @hero @felt[scared|afraid].
        "[I want to go home|Is anybody there|Please help me]!" {he} [said|cried]. @met
        "[I know the way|I can help you|Come with me]," <said> {fname}.
        "[First we go past the <adj> <thing>, then over the <adj> bridge|We go along the river to the <adj> <thing>]."
        @together It got dark, but {fname} [sang a <adj> song|told a story about <adj> <creatures>|held {his} hand].
        At last, they saw a light. {Elder} stood <nook>.
        "[There you are|I looked for you <spot>|I was so {sad}]!" {ehe} said and [hugged|kissed] {name}.
        @hero gave {fname} <number> {food} to say thank you.
        """,
        "{name} learned [to stay on the path|that help can come from anywhere].",
    ),
)

ENDINGS = (
    """From that day on, {name} and {fname} [were best friends|played <game> every <time>|
    went to {place} together every <time>|ate <food> every <time>].""",
    """[That night|In the evening], {name} [ate <meal>|told {elder} everything|counted <creatures>] and fell asleep
    [with a smile|<nook>].""",
    "And {name} the {kind} and {fname} the {fkind} [lived happily ever after|were friends for ever].",
    """{name} went home [<glad>|with <food> for everyone|with <number> <adj> <creatures>].
    It had been a [|very ][good|long|wonderful] day. The end.""",
    """Then {name} and {fname} [went home|sat by the fire|sat under the stars|sat <spot>] and
    [ate <meal>|ate <food> and <food>|played <game>|laughed about the <adj> <creatures>]. The end.""",
    "{name} was <glad>, and so was {fname}.[| The end.]",
)
