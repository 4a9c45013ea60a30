"""Literal words that the filters look for: navigation in headers, stop words, the marks of forums, shops and notices, by language."""

# A header with one of these words or phrases, anywhere in it, is navigation. The first four English ones are the paper's examples.
NAVIGATION_PHRASES: dict[str, tuple[str, ...]] = {
    "en": (
        "advertisement", "forum", "quick link", "free newsletter",
        "advertisements", "forums", "quick links", "newsletter", "newsletters", "related article", "related articles", "related post",
        "related posts", "related stories", "related links", "related topics", "related content", "related pages", "recent posts",
        "recent comments", "popular posts", "most popular", "most read", "latest news", "you may also like", "you might also like",
        "more from", "read next", "read more", "up next", "keep reading",
        "continue reading", "editors picks", "editor s picks", "editor s pick", "editor s choice", "top stories", "latest stories",
        "more stories", "more news", "most viewed", "recommended for you", "popular categories", "what to read next", "trending now",
        "trending stories", "around the web", "from the web", "from our partners", "from our sponsors", "in case you missed it",
        "related coverage",
        "more on this", "more like this", "recommended reading", "recommended stories",
        "leave a reply", "leave a comment", "post a comment", "add a comment",
        "share this", "follow us", "sign up", "log in", "subscribe", "table of contents", "in this section", "on this page",
        "navigation menu", "main menu", "site map", "sitemap", "cookie policy", "cookie settings", "privacy policy", "terms of use",
        "terms of service", "terms and conditions", "all rights reserved", "sponsored", "shopping cart", "search results",
    ),
    "de": (
        "anzeige", "werbung", "ähnliche artikel", "ähnliche beiträge", "verwandte themen", "verwandte artikel", "neueste beiträge",
        "neueste kommentare", "das könnte sie auch interessieren", "das könnte dich auch interessieren", "meistgelesen", "mehr zum thema",
        "schreibe einen kommentar", "kommentar schreiben", "kommentar hinterlassen", "teilen auf", "folgen sie uns", "folge uns",
        "anmelden", "registrieren", "abonnieren", "inhaltsverzeichnis", "auf dieser seite", "hauptmenü", "seitenübersicht",
        "datenschutzerklärung", "nutzungsbedingungen", "cookie einstellungen", "warenkorb", "suchergebnisse", "nächster artikel",
    ),
    "fr": (
        "publicité", "articles similaires", "articles liés", "articles connexes", "articles récents", "commentaires récents",
        "vous aimerez aussi", "à lire aussi", "les plus lus", "laisser un commentaire", "partager cet article", "suivez nous",
        "s inscrire", "se connecter", "s abonner", "abonnez vous", "table des matières", "sommaire", "sur cette page", "menu principal",
        "plan du site", "politique de confidentialité", "conditions d utilisation", "conditions générales", "mentions légales", "panier",
        "résultats de recherche",
    ),
    "es": (
        "publicidad", "artículos relacionados", "entradas relacionadas", "entradas recientes", "comentarios recientes",
        "también te puede interesar", "te puede interesar", "lo más leído", "deja un comentario", "dejar un comentario", "compartir en",
        "síguenos", "regístrate", "iniciar sesión", "suscríbete", "tabla de contenidos", "índice de contenidos", "en esta página",
        "menú principal", "mapa del sitio", "política de privacidad", "política de cookies", "términos y condiciones",
        "condiciones de uso", "aviso legal", "carrito", "resultados de búsqueda",
    ),
    "it": (
        "pubblicità", "articoli correlati", "articoli recenti", "commenti recenti", "potrebbe interessarti", "i più letti",
        "lascia un commento", "condividi su", "seguici", "iscriviti", "accedi", "registrati", "indice dei contenuti", "in questa pagina",
        "menu principale", "mappa del sito", "informativa sulla privacy", "termini e condizioni", "note legali", "carrello",
        "risultati della ricerca",
    ),
    "pt": (
        "publicidade", "artigos relacionados", "posts relacionados", "posts recentes", "comentários recentes", "você também pode gostar",
        "mais lidas", "deixe um comentário", "compartilhe", "partilhar", "siga nos", "cadastre se", "entrar", "inscreva se", "sumário",
        "nesta página", "menu principal", "mapa do site", "política de privacidade", "termos de uso", "termos e condições", "carrinho",
        "resultados da pesquisa",
    ),
    "nl": (
        "advertentie", "gerelateerde artikelen", "gerelateerde berichten", "recente berichten", "recente reacties", "meest gelezen",
        "lees ook", "lees meer", "geef een reactie", "laat een reactie achter", "deel dit", "volg ons", "inloggen", "aanmelden",
        "inhoudsopgave", "op deze pagina", "hoofdmenu", "privacybeleid", "cookiebeleid", "algemene voorwaarden", "winkelwagen",
        "zoekresultaten",
    ),
}  # fmt: skip
# Of these, those that an article may be about ("How to log in from another room"): they make a header navigation only at its beginning,
# or when it has no more than three words. The paper's own examples do so anywhere.
SPOKEN_OF: dict[str, frozenset[str]] = {
    language: frozenset(phrases.split(", "))
    for language, phrases in {
        "en": "newsletter, newsletters, leave a reply, leave a comment, post a comment, add a comment, share this, "
        "follow us, sign up, log in, subscribe, table of contents, read more, navigation menu, main menu, site map, sitemap, "
        "cookie policy, cookie settings, privacy policy, terms of use, terms of service, terms and conditions, all rights reserved, "
        "sponsored, shopping cart, search results, latest news, more from, most popular, most read",
        "de": "anzeige, werbung, schreibe einen kommentar, kommentar schreiben, kommentar hinterlassen, teilen auf, folgen sie uns, "
        "folge uns, anmelden, registrieren, abonnieren, inhaltsverzeichnis, hauptmenü, datenschutzerklärung, nutzungsbedingungen, "
        "cookie einstellungen, warenkorb, suchergebnisse",
        "fr": "publicité, laisser un commentaire, partager cet article, suivez nous, s inscrire, se connecter, s abonner, abonnez vous, "
        "table des matières, sommaire, menu principal, plan du site, politique de confidentialité, conditions d utilisation, "
        "conditions générales, mentions légales, panier, résultats de recherche",
        "es": "publicidad, deja un comentario, dejar un comentario, compartir en, síguenos, regístrate, iniciar sesión, suscríbete, "
        "menú principal, mapa del sitio, política de privacidad, política de cookies, términos y condiciones, condiciones de uso, "
        "aviso legal, carrito, resultados de búsqueda",
        "it": "pubblicità, lascia un commento, condividi su, seguici, iscriviti, accedi, registrati, menu principale, mappa del sito, "
        "informativa sulla privacy, termini e condizioni, note legali, carrello, risultati della ricerca",
        "pt": "publicidade, deixe um comentário, compartilhe, partilhar, siga nos, cadastre se, entrar, inscreva se, sumário, "
        "menu principal, mapa do site, política de privacidade, termos de uso, termos e condições, carrinho, resultados da pesquisa",
        "nl": "advertentie, geef een reactie, laat een reactie achter, deel dit, volg ons, inloggen, aanmelden, lees meer, "
        "inhoudsopgave, hoofdmenu, privacybeleid, cookiebeleid, algemene voorwaarden, winkelwagen, zoekresultaten",
    }.items()
}
# A header that ends with one of these invites to it.
NEWSLETTERS = frozenset(("newsletter", "newsletters", "infolettre", "nieuwsbrief"))
# A header that is nothing but one of these (digits and punctuation apart: "12 Comments") is navigation.
NAVIGATION_HEADERS: dict[str, tuple[str, ...]] = {
    "en": (
        "about us", "about the author", "about the authors", "about the writer", "author", "authors", "account", "archive", "archives",
        "ask a question", "back to top", "bookmarks", "categories", "category", "comment",
        "comments", "contact", "contact us", "contents", "copyright", "external links", "footer", "footnotes", "further reading",
        "home", "index", "legal notice", "legal notices", "license", "links", "login", "menu",
        "meta", "more on", "my account", "navigation", "next", "next topic", "notes and references", "pages", "page", "partners",
        "previous",
        "previous topic", "quick search", "references", "register", "related", "replies", "reviews", "search", "see also", "share",
        "sidebar", "skip to content", "social", "source code", "sources", "sponsors", "tags", "this page", "tools", "topics", "trending",
        "views", "write to us", "your cart",
    ),
    "de": (
        "über den autor", "über die autorin", "über die autoren", "archiv", "archive", "inhalt", "impressum", "kategorien", "kategorie",
        "kommentare", "kontakt", "links", "menü", "navigation",
        "partner", "quellen", "schlagwörter", "siehe auch", "startseite", "suche", "teilen", "themen", "über uns", "weblinks",
        "einzelnachweise", "datenschutz",
    ),
    "fr": (
        "à propos de l auteur", "accueil", "archives", "à propos", "catégories", "commentaires", "contact", "liens", "liens externes",
        "menu", "navigation",
        "partager", "partenaires", "recherche", "références", "voir aussi", "étiquettes", "sources",
    ),
    "es": (
        "sobre el autor", "sobre la autora", "archivo", "archivos", "acerca de", "categorías", "comentarios", "contacto", "compartir",
        "enlaces", "enlaces externos",
        "etiquetas", "inicio", "menú", "navegación", "referencias", "buscar", "véase también", "fuentes",
    ),
    "it": (
        "l autore", "sull autore", "archivio", "archivi", "categorie", "chi siamo", "cerca", "collegamenti esterni", "commenti",
        "condividi", "contatti", "menu",
        "navigazione", "riferimenti", "voci correlate", "tag", "fonti",
    ),
    "pt": (
        "sobre o autor", "sobre a autora", "arquivo", "arquivos", "categorias", "comentários", "contato", "contacto", "início",
        "ligações externas", "links", "menu",
        "navegação", "pesquisar", "referências", "ver também", "sobre nós", "fontes", "marcadores",
    ),
    "nl": (
        "over de auteur", "archief", "categorieën", "contact", "delen", "externe links", "inhoud", "menu", "navigatie", "over ons",
        "reacties",
        "referenties", "zie ook", "zoeken", "bronnen",
    ),
}  # fmt: skip
# A line at the end of a section that begins with one of these and has links leads on to other pages.
SEE_ALSO = (
    r"(?:see also|also see|for (?:more|further) (?:information|details)|further (?:information|reading)|siehe auch|voir aussi|véase también"
    r"|ver también|vedi anche|ver também|veja também|zie ook)\b"
)
# How a link to the header that it stands beside begins, for those who hear the page.
PERMALINK = (
    r"(?:perma(?:nent )?link|direct link|anchor link|(?:copy |get )?link) (?:to|for|in) |(?:copy )?perma(?:nent )?link\b|section titled\b"
    r"|anchor (?:for|to)\b|copy (?:the )?link\b|(?:direkter |permanenter )?link zu(?:m| |r )|lien (?:permanent|direct)\b"
    r"|enlace (?:permanente|directo)\b|link (?:permanente|direto)\b|collegamento (?:permanente|diretto)\b"
    r"|(?:directe|permanente) (?:link|koppeling)\b"
)
# A header that is nothing but one of these is the first word of a remark within the text around it, and no header.
REMARKS = frozenset((
    "note", "tip", "caution", "warning", "important", "attention", "danger", "hint", "hinweis", "achtung", "warnung", "tipp", "wichtig",
    "remarque", "avertissement", "attention", "astuce", "nota", "aviso", "advertencia", "atención", "avvertenza", "attenzione", "opmerking",
    "waarschuwing", "atenção",
))  # fmt: skip
# Headers that say nothing without another above them. Where all are of this kind, the page's title is put before them.
GENERIC = frozenset((
    "about", "arguments", "background", "basics", "bugs", "caveats", "changes", "compatibility", "conclusion", "configuration",
    "definition", "description", "details", "diagnostics", "discussion", "environment", "example", "examples", "exit status", "features",
    "files", "further information", "general", "general information", "how it works", "information", "installation", "instructions",
    "introduction", "limitations", "more information", "notes", "options", "other", "output", "outputs", "overview", "parameters",
    "preface", "prerequisites", "properties", "purpose", "remarks", "requirements", "results", "return value", "return values",
    "security", "settings", "setup", "specification", "steps", "style", "styles", "summary", "synopsis", "syntax", "terminology", "tips",
    "usage", "use", "what is it", "what it does", "why",
))  # fmt: skip
# Headers that announce an example, and do not say of what.
EXAMPLES = frozenset(("example", "examples", "sample", "samples", "a simple example", "simple example", "example usage", "usage example"))
# One of these words in a header or in the page's address: each section below builds on those before it.
LESSONS = frozenset(("tutorial", "tutorials", "walkthrough", "walkthroughs", "howto", "howtos"))
# What pages say in the place of the rest of a text.
PAYWALLS = (
    "to view the full story", "to read the full", "to continue reading", "to read the rest", "to read this article", "subscribe to read",
    "already a subscriber", "for subscribers only", "subscribers only", "subscriber-only", "log in to read", "sign in to read",
    "register to read", "become a member to", "free articles", "this content is locked", "unlock this article",
)  # fmt: skip
# What is shown, when a text announces it.
SHOWN = (
    "code|snippet|command|script|output|query|listing|image|photo|video|tweet|chart|graph|map|diagram|screenshot|screen shot|graphic"
    "|infographic|following \\w+|ways|module|trailer|clip|gallery|figure|illustration|table"
)
# What authors write where their text is not finished.
UNFINISHED = ("FIXME", "TODO", "TBD")
# The words that hold a text together; text of a language that is not here is not judged by them.
STOP_WORDS: dict[str, frozenset[str]] = {
    language: frozenset(words.split())
    for language, words in {
        "en": "the of and to a in is that for it as was with be by on not he i this are or his from at which but have an had they you were "
        "their one all we can her has there been if more when will would who so no she other its may these than then also into only any "
        "your what some could them our do does should must about how use used each such where",
        "de": "der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als auch es an werden aus er hat dass sie nach "
        "wird bei einer um am sind noch wie einem über einen so zum war haben nur oder aber vor zur bis mehr durch man kann wenn ich ihre",
        "fr": "de la le et les des en un du une que est pour qui dans a par plus pas au sur ne se ce il sont avec son il aux d l on ou si "
        "leur y dont nous vous mais comme sa ses cette été être fait elle deux même ces tout aussi peut",
        "es": "de la que el en y a los del se las por un para con no una su al lo como más o pero sus le ha me si sin sobre este ya entre "
        "cuando todo esta ser son dos también fue había era muy años hasta desde está mi porque qué sólo puede",
        "it": "di e il la che in a per un del è non una le si con i da al dei come più gli della nel alla sono o ma anche lo ha delle su "
        "questo se dal ci mi essere dalla nella degli questa loro tra cui solo può due stato",
        "pt": "de a o que e do da em um para é com não uma os no se na por mais as dos como mas foi ao ele das tem à seu sua ou ser quando "
        "muito há nos já está eu também só pelo pela até isso ela entre era depois sem mesmo aos ter seus",
        "nl": "de van een het en in is dat op te zijn met voor niet die aan er om ook als bij door maar uit dan ze nog naar of wordt kan "
        "worden tot hij over deze was heeft meer hebben je ik dit zo wel geen onder zou al",
    }.items()
}
# Marks that are counted in lower-cased text; each is whole words.
FORUM_MARKS = (
    "posted by", "posted on", "replied:", " replied on ", " said:", " wrote:", "joined:", "posts:", "likes received", "reply to this",
    "quote:\n", "report abuse", "report post", "report this", " minutes ago", " hours ago", " days ago", " weeks ago", "edited by",
    "thread starter", "senior member", "junior member", "permalink\n", "\nre: ", "originally posted", " replies\n", " upvotes",
)  # fmt: skip
LEGAL_MARKS = (
    "uses cookies", "use cookies", "using cookies", "consent to the use", "browser settings", "personal data", "personal information",
    "personally identifiable", "data controller", "privacy policy", "privacy notice", "privacy statement", "third parties", "terms of use",
    "terms of service", "terms and conditions", "you agree", "hereby", "herein", "hereunder", "thereof", "without limitation",
    "without warranty", "without warranties", "warranty", "warranties", "liability", " liable ", "indemnify", "indemnification",
    "governing law", "jurisdiction", "licensor",
    "copyright holder", "copyright holders", "copyright notice", "copyright owner", "fitness for a particular purpose", "merchantability",
    "permission is granted", "pursuant to", "shall be deemed", "derivative work", "derivative works", "redistributions",
)  # fmt: skip
POINTERS = (
    "previous section", "preceding section", "next section", "following section", "this chapter", "previous chapter", "next chapter",
    "the table above", "table above", "example above", "above example", "figure above", "shown above", "described above", "listed above",
    "mentioned above", "described below", "listed below", "shown below", "is described in", "are described in", "see section",
    "see chapter", "see figure", "as shown in figure", "refer to section", "to access this ",
)  # fmt: skip
# What a text, in lower case, says that leans on what is not in it: LOOKS_BACK and THE_EXAMPLE before its first code or table, REFERS_BACK
# everywhere, CONTINUES at its beginning, LOOKS_AHEAD in its last line, SHOWS_BELOW with nothing shown behind it, NUMBERED_FIGURE
# everywhere, SHOWS_PICTURE everywhere if there is no code or table. Each match has one of the words before its pattern, or of AHEAD_WORDS,
# EXAMPLE_WORDS, PICTURE_WORDS. English, like the marks.
_PARTS = (
    "examples?|sections?|chapters?|figures?|tables?|diagrams?|listings?|steps?|paragraphs?|pages?|parts?|tree|query|program|script|code"
    "|discussion|formats?|schemes?|commands?|options?|rules?|methods?|procedures?|instructions?|definitions?|descriptions?|functions?"
    "|lists?|fields?"
)
_TOLD = "described|shown|mentioned|discussed|explained|listed|noted|outlined|introduced|stated|illustrated|presented|detailed"
_NOT_IN_PLACE = r"(?! (?:the|a|an|it|this|that|each|\d+)\b)"  # "printed above the line"
LOOKS_BACK = {
    ("above",): rf"\babove (?:\w+ )?(?:{_PARTS})\b|\b(?:{_PARTS})(?: \d[\d.]*)? above\b{_NOT_IN_PLACE}|\babove-(?:{_TOLD})\b"
    rf"|(?:\b(?:the|as|see|used|given|seen|said|defined|created|entered|specified|{_TOLD})|[”\"]) above\b{_NOT_IN_PLACE}",
    ("previous", "preceding", "earlier", "foregoing"): rf"\b(?:previous|preceding|earlier|foregoing) (?:\w+ )?(?:{_PARTS})\b",
    ("earlier", "before", "previously", "previous", "last", "preceding"): rf"\b(?:{_TOLD}) (?:earlier|before|previously"
    r"|in the (?:previous|last|preceding) (?:section|chapter|example|step|paragraph|page)s?)\b",
    ("previously", "already"): rf"\b(?:previously|already)[ -](?:{_TOLD})\b",
    ("example",): r"\b(?:in|as|of|from|with|like) the (?:first|second|third|last|other|original|running) example\b"
    r"|\b(?:in|of|from) (?:the|our) example[,.;)](?!\w)",
    ("our",): r"\bour (?:\w+ )?(?:examples?|samples?|script|module|function|code)\b",
    ("continuing", "far"): r"\bcontinuing (?:from|with|on|the)\b|\bso far,? we\b",
}
# One such remark in a long text that stands alone otherwise does not make it lean on what is said elsewhere.
SMALL_REFERENCE = (
    rf",? ?\(?\b(?:(?:see|as) above\b|(?:(?:as|that|which) )?(?:(?:we|i)(?:[’']ve| have)? )?(?:(?:already|previously) )?(?:{_TOLD})"
    r" (?:above|earlier|before|previously)\b|(?:already|previously) (?:described|mentioned|discussed|explained|covered|introduced)\b)\)?"
)
REFERS_BACK = {
    ("previous", "preceding", "last", "earlier"): r"\b(?:in|from|of|followed) the"
    r" (?:(?:previous|preceding|earlier) (?:section|chapter|lesson)s?|last (?:section|lesson))\b|\bthe last paragraph\b"
    r"|\bearlier in this\b",
    ("below", "our"): r"\brecipe card(?: below)?\b|\bprintable recipe\b|\bsee (?:our|my|the) videos? (?:on|of|for|below|above)\b",
    ("saw", "seen"): r"\bas (?:we|you)(?: have|[’']ve)? (?:saw|seen)\b",
    ("before",): r"\bas before,",
    ("video",): r"\b(?:watch|see) the video (?:in|at|above|below)\b",
    ("above", "earlier", "before", "previously"): r"\b(?:we|i) (?:showed|saw|used|described|discussed|mentioned)"
    r" (?:above|earlier|before|previously)\b",
    ("article", "post"): r"\bin the (?:first|second|last|previous) (?:article|post)\b"
    r"|\b(?:second|third|fourth|fifth|last|next) (?:article|post) (?:in|of) (?:a|the|this|our|my) series\b",
    ("already", "remember"): r"\bwe(?:(?:'|’| ha)ve)? already (?:talked|discussed|covered|mentioned)\b|\bremember what i said\b",
    ("shown", "described", "discussed", "covered", "reviewed", "summarized"): r"\b(?:we(?: have|[’']ve)"
    r"|this (?:article|chapter|document|page|section|tutorial) has) (?:shown|described|discussed|covered|reviewed|summarized)\b",
}
THE_EXAMPLE = r"(\b(?:this|that|these|our|the)(?: (?:first|second|third|last|same|other|simple|original|running))? )?\bexamples?\b"
EXAMPLE_WORDS = ("example", "examples")
_FIGURES = "examples?|code|snippets?|listings?|tables?|figures?|graphs?|charts?|images?|pictures?|diagrams?|script|program"
SHOWS_BELOW = {
    ("below",): rf"\b(?:{_FIGURES}) (?:\w+ )?below\b{_NOT_IN_PLACE}|\bbelow (?:{_FIGURES})\b",
    ("are", "is"): r"(?:\A|[.!?\n]\s*)below (?:are|is) (?:all|the|some|an?|our|my)\b",
    ("link", "links"): r"\b(?:click|tap)(?: on)? the links? below\b",
    ("here",): r"\bhere (?:is|are) (?:\w+ ){0,3}(?:examples?|images?|pictures?|screenshots?|diagrams?)\b",
    ("following",): r"\bfollowing (?:examples?|code|snippets?|listings?|tables?|figures?|images?|pictures?|diagrams?)\b",
}
LOOKS_AHEAD = (
    rf"\b(?:see|covered|defined|documented|{_TOLD}) (?:later\b|below\b|here\W*\Z)|[”\"] below\b{_NOT_IN_PLACE}"
    rf"|\b(?:{_PARTS}|documentation|details?|tests?|notes?) below\b{_NOT_IN_PLACE}"
    r"|\b(?:next|following) (?:sections?|chapters?|examples?)\b|\blater in (?:this|the) (?:section|chapter|document|tutorial|manual|book)\b"
    r"|\b(?:next|following) (?:article|post|part|lesson|video)s?\b|\bread on\b|\bi(?:'|’| a)m about to (?:share|cover|show)\b"
    r"|\bwe(?:'|’| a)re going to (?:cover|look at|talk about|show|explain|discuss)\b|\blet(?:'|’)s get started\W*\Z"
    r"|\bwe(?:'|’| wi)ll (?:return|come back|get back) to\b|\b(?:see|refer to) [^.\n]{1,60} (?:above|below)\b"
)
AHEAD_WORDS = ("above", "below", "later", "next", "following", "return", "back", "here", "read", "about", "going", "started")
CONTINUES = (
    r"(?:these are (?:just|only) (?:a few|some)|now|go ahead|going back"
    r"|another|additionally|alternatively|also|in addition(?=,)|if you followed|next(?=,)|the next|finally"
    r"|so far|as (?:we|you) (?:saw|have|can see|know)|we(?:'|’| ha)ve (?:seen|already|now|just|looked)"
    r"|we(?:'|’| a)re (?:getting|now|almost|ready)|let(?:'|’| u)?s (?:now|continue|go on)|that concludes|the above"
    r"|up (?:un)?till? now|until now|at this point,? you|by now,? you"
    r"|the (?:second|third|fourth) (?:part|step|stage|example|argument|advantage|transformation|way|method|option|reason|parameter)"
    r"|so(?! as | long | called )|however|therefore|thus|hence|moreover|furthermore|similarly|likewise|conversely|again|consequently"
    r"|nevertheless|afterwards|then|and|but|an? (?:similar|alternative|second|third|(?:more|slightly|somewhat) \w+)|even th(?:is|ese)"
    r"|consider (?:now )?a (?:more|slightly|somewhat) \w+|here(?:'|’| i)s the same"
    r"|(?:in |for |with )?this (?:example|setup|scenario|case|step|approach|problem|query|code|change|output|list))\b"
)
SHOWS_PICTURE = (
    r"\b(?:shown|seen|illustrated|depicted|pictured|figure|diagram|picture|image|screenshot|illustration|drawing|photo|chart|graph)s? "
    r"(?:above |below )?(?:to|on|at) the (?:right|left)\b(?! (?:side )?(?:of|panel))"
    r"|\b(?:figure|picture|screenshot|screen shot|illustration|photo|diagram) (?:above|below)\b"
    r"|\b(?:figure|screenshot|screen shot|illustration) (?:shows|illustrates)\b"
    r"|\b(?:above|following|below) (?:figure|picture|screenshot|illustration|diagram)s?\b"
    r"|\b(?:in|from) th(?:is|ese) (?:photo|picture|image|screenshot)s?\b|\b(?:in the )?(?:photo|image|video)s? (?:above|below)\b"
)
NUMBERED_FIGURE = r"\b(?:figures?|fig\.) \d"
PICTURE_WORDS = ("right", "left", "figure", "figures", "picture", "pictures", "screenshot", "screenshots", "shot", "illustration", "photo",
                 "diagram", "diagrams", "illustrations", "photos", "image", "images", "video", "videos")  # fmt: skip
# Two of these make a text an advertisement.
ADVERTS = (
    "buy now", "shop now", "subject to change without notice", "promo code", "coupon code", "coupons may", "while supplies last",
    "limited-time offer", "limited time offer", "free shipping", "% off ", "affiliate links", "affiliate partnerships", "in stock now",
    "order now", "add to cart", "black friday", "cyber monday", "prime day", "daily deals", "deals are live", "price break", "all-time low",
    "today’s deal", "today's deal", "going rate", "discount code", "free trial", "at no cost to you", "make a donation",
    "financial support", "currently offering", "usually sells for", "usually selling for",
)  # fmt: skip
# One of these is enough: somebody paid for the text.
SPONSORED = ("this sponsored ", "has been compensated by", "is a sponsored post", "post is sponsored by", "#ad\n")
SHOP_MARKS = ("add to cart", "add to basket", "in stock", "out of stock", "free shipping", "price:")
PRICE = r"[$€£¥₹] ?\d[\d.,]*\d|\b\d[\d.,]* ?[€£]|\b(?:usd|eur|gbp|chf) ?\d[\d.,]*\d|\b\d[\d.,]* ?(?:usd|eur|gbp|chf|euros|dollars)\b"
CURRENCIES = ("$", "€", "£", "¥", "₹", "usd", "eur", "gbp", "chf", "dollars")
