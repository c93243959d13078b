// Written by `python -m android_app.unicode_tables`: what the tokenizers library says of every code point.
package dev.pocketvlm.text

/** Code point less the one before, 2 * length + whether it is composed again, what it becomes. */
internal const val DECOMPOSITIONS: String =
    "T*'Q5aB!'Q5aC!'Q5aD!'Q5aE!'Q5aJ!'Q5aL#'Q7b;!'Q9aB!'Q9aC!'Q9aD!'Q9aJ!'Q=aB!'Q=aC!'Q=aD!'Q=aJ#'QBaE!'QCaB!'QCaC!" +
        "'QCaD!'QCaE!'QCaJ%'QIaB!'QIaC!'QIaD!'QIaJ!'QMaC%'R'aB!'R'aC!'R'aD!'R'aE!'R'aJ!'R'aL#'R)b;!'R+aB!'R+aC!'R+aD!'R" +
        "+aJ!'R/aB!'R/aC!'R/aD!'R/aJ#'R4aE!'R5aB!'R5aC!'R5aD!'R5aE!'R5aJ%'R;aB!'R;aC!'R;aD!'R;aJ!'R?aC#'R?aJ!'Q5aF!'R'a" +
        "F!'Q5aH!'R'aH!'Q5b<!'R'b<!'Q7aC!'R)aC!'Q7aD!'R)aD!'Q7aI!'R)aI!'Q7aN!'R)aN!'Q8aN!'R*aN%'Q9aF!'R+aF!'Q9aH!'R+aH!" +
        "'Q9aI!'R+aI!'Q9b<!'R+b<!'Q9aN!'R+aN!'Q;aD!'R-aD!'Q;aH!'R-aH!'Q;aI!'R-aI!'Q;b;!'R-b;!'Q<aD!'R.aD%'Q=aE!'R/aE!'Q" +
        "=aF!'R/aF!'Q=aH!'R/aH!'Q=b<!'R/b<!'Q=aI&'Q>aD!'R0aD!'Q?b;!'R1b;#'Q@aC!'R2aC!'Q@b;!'R2b;!'Q@aN!'R2aN''QBaC!'R4a" +
        "C!'QBb;!'R4b;!'QBaN!'R4aN&'QCaF!'R5aF!'QCaH!'R5aH!'QCaM!'R5aM%'QFaC!'R8aC!'QFb;!'R8b;!'QFaN!'R8aN!'QGaC!'R9aC!" +
        "'QGaD!'R9aD!'QGb;!'R9b;!'QGaN!'R9aN!'QHb;!'R:b;!'QHaN!'R:aN%'QIaE!'R;aE!'QIaF!'R;aF!'QIaH!'R;aH!'QIaL!'R;aL!'Q" +
        "IaM!'R;aM!'QIb<!'R;b<!'QKaD!'R=aD!'QMaD!'R?aD!'QMaJ!'QNaC!'R@aC!'QNaI!'R@aI!'QNaN!'R@aND'QCb/!'R5b/0'QIb/!'R;b" +
        "/?'Q5aN!'R'aN!'Q=aN!'R/aN!'QCaN!'R5aN!'QIaN!'R;aN!'TFaF!'U8aF!'TFaC!'U8aC!'TFaN!'U8aN!'TFaB!'U8aB#'T.aF!'TNaF!" +
        "'[NaF!'[OaF!'T0aF!'U aF%'Q;aN!'R-aN!'Q?aN!'R1aN!'QCb<!'R5b<!'Z@aF!'ZAaF!'Y;aN!'_0aN!'R0aN&'Q;aC!'R-aC%'QBaB!'R" +
        "4aB!'T/aC!'TOaC!'T0aC!'U aC!'TBaC!'U4aC!'Q5b!!'R'b!!'Q5b%!'R'b%!'Q9b!!'R+b!!'Q9b%!'R+b%!'Q=b!!'R/b!!'Q=b%!'R/b" +
        "%!'QCb!!'R5b!!'QCb%!'R5b%!'QFb!!'R8b!!'QFb%!'R8b%!'QIb!!'R;b!!'QIb%!'R;b%!'QGb:!'R9b:!'QHb:!'R:b:%'Q<aN!'R.aN)" +
        "'Q5aI!'R'aI!'Q9b;!'R+b;!'T@aF!'U2aF!'T?aF!'U1aF!'QCaI!'R5aI!'](aF!'])aF!'QMaF!'R?aFUI#aB!#aC##b'!&aJaCQ##`),#Q" +
        "/)'S@aC!'dIaC!#SO!'dMaC!'dOaC!'e!aC#'e)aC#'e/aC!'e3aC!'f&aC<'e!aJ!'e/aJ!'e;aC!'e?aC!'eAaC!'eCaC!'f'aC<'eCaJ!'e" +
        "OaJ!'eIaC!'eOaC!'f%aC''f.aC!'f.aJN'gCaB!'gCaJ#'gAaC&'g4aJ''gHaC!'gFaB!'h!aH-'gFaHB'h8aH9'h5aB!'h5aJ#'h3aC&'i(a" +
        "J''h:aC!'h8aB!'hCaH:'iFb!!'iGb!Q>'gDaH!'h6aH0'g>aH!'h0aH!'g>aJ!'h0aJ%'gCaH!'h5aH%'kNaJ!'kOaJ!'gDaJ!'h6aJ!'gEaJ" +
        "!'h7aJ%'gFaF!'h8aF!'gFaJ!'h8aJ!'gLaJ!'h>aJ%'l0aJ!'l1aJ!'h-aJ!'hMaJ!'h!aF!'hCaF!'h!aJ!'hCaJ!'h!aM!'hCaM!'h'aJ!'" +
        "hGaJ%'h+aJ!'hKaJV7's-t+!'s-t,!'sNt,!'s-t-!'t t,S2'w!t,#'v=t,3'vNt,^ 'QTNQU4*'QU(QU4%'QU+QU4F&QT;QU4!&QT<QU4!&Q" +
        "T=QU4!&QTBQU4!&QTGQU4!&QTHQU4!&QU!QU4!&QU'QU4R2'QX5QX,!'QX5QXE2&QW=QX*!&QW>QX*#&QWKQX*QH&QZDQZN%&QZJQZNE&QZ(QZ" +
        "N!&QZ)QZN!&QZ.QZN%&QZ=QZNU&'QaEQb&%'QaEQa<!'QaEQb'2&Q`MQa:!&Q`NQa:Q+'Qc4QdKQ*'Qd:Qd2!'Qd;Qd2!'Qd:QdKRB'Qg0Qg@R" +
        ">'QiMQj5)'Qj&Qj5!'Qj&Qj6#'Qj&Qj !'Qj*Qj5RE'QlJQlB!'QlKQlB!'QlJQm-S&'Qp%QoD#'Qp%QoI!'Qp(QoD!'Qp%Qp+WE&QwLQz7,&Q" +
        "x(Qz7'&Qx-Qz7'&Qx2Qz7'&Qx7Qz7/&QwJQz5,&QxMQxN#&QxMQy !&Qz2Qy.#&Qz3Qy.+&QxMQy.4&Qy@Qz7,&QyJQz7'&QyOQz7'&Qz&Qz7'" +
        "&Qz+Qz7/&Qy>Qz5R3'Q|IQ}#Q_:'S]3S^5#'S]5S^5#'S]7S^5#'S]9S^5#'S];S^5&'S]?S^5K'S^:S^5#'S^<S^5%'S^>S^5!'S^?S^5#'S^" +
        "BS^5`-'Q5b9!'R'b9!'Q6aI!'R(aI!'Q6b7!'R(b7!'Q6bE!'R(bE!'T1aC!'U!aC!'Q8aI!'R*aI!'Q8b7!'R*b7!'Q8bE!'R*bE!'Q8b;!'R" +
        "*b;!'Q8bA!'R*bA!'UNaB!'UOaB!'UNaC!'UOaC!'Q9bA!'R+bA!'Q9bD!'R+bD!'] aH!']!aH!'Q:aI!'R,aI!'Q;aF!'R-aF!'Q<aI!'R.a" +
        "I!'Q<b7!'R.b7!'Q<aJ!'R.aJ!'Q<b;!'R.b;!'Q<bB!'R.bB!'Q=bD!'R/bD!'T9aC!'U+aC!'Q?aC!'R1aC!'Q?b7!'R1b7!'Q?bE!'R1bE!" +
        "'Q@b7!'R2b7!'So(aF!'So)aF!'Q@bE!'R2bE!'Q@bA!'R2bA!'QAaC!'R3aC!'QAaI!'R3aI!'QAb7!'R3b7!'QBaI!'R4aI!'QBb7!'R4b7!" +
        "'QBbE!'R4bE!'QBbA!'R4bA!'T?aC!'U1aC!'T?aJ!'U1aJ!'W,aB!'W-aB!'W,aC!'W-aC!'QDaC!'R6aC!'QDaI!'R6aI!'QFaI!'R8aI!'Q" +
        "Fb7!'R8b7!'SoLaF!'SoMaF!'QFbE!'R8bE!'QGaI!'R9aI!'QGb7!'R9b7!'W:aI!'W;aI!'W@aI!'WAaI!'Sp&aI!'Sp'aI!'QHaI!'R:aI!" +
        "'QHb7!'R:b7!'QHbE!'R:bE!'QHbA!'R:bA!'QIb8!'R;b8!'QIbD!'R;bD!'QIbA!'R;bA!'WHaC!'WIaC!'WJaJ!'WKaJ!'QJaE!'R<aE!'Q" +
        "Jb7!'R<b7!'QKaB!'R=aB!'QKaC!'R=aC!'QKaJ!'R=aJ!'QKaI!'R=aI!'QKb7!'R=b7!'QLaI!'R>aI!'QLaJ!'R>aJ!'QMaI!'R?aI!'QNa" +
        "D!'R@aD!'QNb7!'R@b7!'QNbE!'R@bE!'R.bE!'R:aJ!'R=aL!'R?aL#'X1aI''Q5b7!'R'b7!'Q5aK!'R'aK!'T,aC!'TLaC!'T,aB!'TLaB!" +
        "'T,aK!'TLaK!'T,aE!'TLaE!'Sq6aD!'Sq7aD!'U>aC!'U?aC!'U>aB!'U?aB!'U>aK!'U?aK!'U>aE!'U?aE!'Sq6aH!'Sq7aH!'Q9b7!'R+b" +
        "7!'Q9aK!'R+aK!'Q9aE!'R+aE!'T4aC!'U&aC!'T4aB!'U&aB!'T4aK!'U&aK!'T4aE!'U&aE!'SqNaD!'SqOaD!'Q=aK!'R/aK!'Q=b7!'R/b" +
        "7!'QCb7!'R5b7!'QCaK!'R5aK!'T>aC!'U0aC!'T>aB!'U0aB!'T>aK!'U0aK!'T>aE!'U0aE!'Sr4aD!'Sr5aD!'Y#aC!'Y%aC!'Y#aB!'Y%a" +
        "B!'Y#aK!'Y%aK!'Y#aE!'Y%aE!'Y#b7!'Y%b7!'QIb7!'R;b7!'QIaK!'R;aK!'Y3aC!'Y4aC!'Y3aB!'Y4aB!'Y3aK!'Y4aK!'Y3aE!'Y4aE!" +
        "'Y3b7!'Y4b7!'QMaB!'R?aB!'QMb7!'R?b7!'QMaK!'R?aK!'QMaE!'R?aE)'e;b'!'e;b(!'Ss:aB!'Ss;aB!'Ss:aC!'Ss;aC!'Ss:c(!'Ss" +
        ";c(!'dIb'!'dIb(!'SsBaB!'SsCaB!'SsBaC!'SsCaC!'SsBc(!'SsCc(!'e?b'!'e?b(!'SsJaB!'SsKaB!'SsJaC!'SsKaC%'dMb'!'dMb(!" +
        "'St#aB!'St%aB!'St#aC!'St%aC%'eAb'!'eAb(!'St,aB!'St-aB!'St,aC!'St-aC!'St,c(!'St-c(!'dOb'!'dOb(!'St4aB!'St5aB!'S" +
        "t4aC!'St5aC!'St4c(!'St5c(!'eCb'!'eCb(!'St<aB!'St=aB!'St<aC!'St=aC!'St<c(!'St=c(!'e!b'!'e!b(!'StDaB!'StEaB!'StD" +
        "aC!'StEaC!'StDc(!'StEc(!'eIb'!'eIb(!'StLaB!'StMaB!'StLaC!'StMaC%'e)b'!'e)b(!'Su&aB!'Su'aB!'Su&aC!'Su'aC%'eOb'!" +
        "'eOb(!'Su.aB!'Su/aB!'Su.aC!'Su/aC!'Su.c(!'Su/c(#'e/b(#'Su7aB#'Su7aC#'Su7c(!'f%b'!'f%b(!'Su>aB!'Su?aB!'Su>aC!'S" +
        "u?aC!'Su>c(!'Su?c(!'e3b'!'e3b(!'SuFaB!'SuGaB!'SuFaC!'SuGaC!'SuFc(!'SuGc(!'e;aB!&e;aC!'e?aB!&e?aC!'eAaB!&eAaC!'" +
        "eCaB!&eCaC!'eIaB!&eIaC!'eOaB!&eOaC!'f%aB!&f%aC%'Ss:c+!'Ss;c+!'Ss<c+!'Ss=c+!'Ss>c+!'Ss?c+!'Ss@c+!'SsAc+!'SsBc+!" +
        "'SsCc+!'SsDc+!'SsEc+!'SsFc+!'SsGc+!'SsHc+!'SsIc+!'St,c+!'St-c+!'St.c+!'St/c+!'St0c+!'St1c+!'St2c+!'St3c+!'St4c" +
        "+!'St5c+!'St6c+!'St7c+!'St8c+!'St9c+!'St:c+!'St;c+!'Su>c+!'Su?c+!'Su@c+!'SuAc+!'SuBc+!'SuCc+!'SuDc+!'SuEc+!'Su" +
        "Fc+!'SuGc+!'SuHc+!'SuIc+!'SuJc+!'SuKc+!'SuLc+!'SuMc+!'e;aH!'e;aF!'SuNc+!'e;c+!'e6c+#'e;c(!'Sw8c+!'dIaH!'dIaF!'" +
        "dIaB!&dIaC!'dIc+##eC%'S@c(!'Sv#c+!'eAc+!'e8c+#'eAc(!'SwHc+!'dMaB!&dMaC!'dOaB!&dOaC!'dOc+!'SwAaB!'SwAaC!'SwAc(!" +
        "'eCaH!'eCaF!'f&aB!(eCaJaC%'eCc(!'f&c(!'e!aH!'e!aF!'e!aB!&e!aC#'Sy#aB!'Sy#aC!'Sy#c(!'eOaH!'eOaF!'f'aB!(eOaJaC!'" +
        "eKb'!'eKb(!'eOc(!'f'c(!'e/aH!'e/aF!'e/aB!&e/aC!'e+b(!'S@aB!&S@aC!#R&%'Sv,c+!'f%c+!'f*c+#'f%c(!'SxJc+!'e)aB!&e)" +
        "aC!'e3aB!&e3aC!'e3c+!#SL%#Sy(!#Sy)V3#e3&#Q?!&Q5aLR5'TRFbL!'TRHbL5'TRJbLA'TT*bL!'TT.bL!'TT,bLQ)'TU/bL''TU4bL%'T" +
        "U7bL:'TUObL#'TV!bL='TV:bL%'TVAbL%'TVCbL#'TVFbL9'Q1bL#'TW1bL-'TVKbL!'Q0bL!'Q2bL!'TW4bL!'TW5bL%'TWBbL!'TWCbL%'TW" +
        "FbL!'TWGbL)'TWJbL!'TWKbL%'TX#bL!'TX%bL%'TX(bL!'TX)bLE'TXDbL!'TXJbL!'TXKbL!'TXMbLQ%'TWLbL!'TWMbL!'TX3bL!'TX4bL)" +
        "'TY&bL!'TY'bL!'TY(bL!'TY)bLQ0#Uv0!#Uv1{H&UX;bLo.'UwEUy7#'UwGUy7#'UwIUy7#'UwKUy7#'UwMUy7#'UwOUy7#'Ux!Uy7#'Ux%Uy" +
        "7#'Ux'Uy7#'Ux)Uy7#'Ux+Uy7#'Ux-Uy7%'Ux0Uy7#'Ux2Uy7#'Ux4Uy7)'Ux;Uy7!'Ux;Uy8#'Ux>Uy7!'Ux>Uy8#'UxAUy7!'UxAUy8#'UxD" +
        "Uy7!'UxDUy8#'UxGUy7!'UxGUy89'Uw@Uy7,'Uy;Uy70'UyIUy7#'UyKUy7#'UyMUy7#'UyOUy7#'Uz!Uy7#'Uz%Uy7#'Uz'Uy7#'Uz)Uy7#'U" +
        "z+Uy7#'Uz-Uy7#'Uz/Uy7#'Uz1Uy7%'Uz4Uy7#'Uz6Uy7#'Uz8Uy7)'Uz?Uy7!'Uz?Uy8#'UzBUy7!'UzBUy8#'UzEUy7!'UzEUy8#'UzHUy7!" +
        "'UzHUy8#'UzKUy7!'UzKUy89'UyDUy7%'U{1Uy7!'U{2Uy7!'U{3Uy7!'U{4Uy7&'U{?Uy7iY&#a}B!#]eN!#b]@!#bQ8!#^cC!#Yf*!#ZVK!#" +
        "d_.!#d_.!#Zv%!#bn9!#Z`O!#ZuJ!#[x*!#__O!#`dA!#a['!#ad2!#ak.!#bg9!#]vN!#^Y+!#^o!!#_PH!#`~M!#bl.!#cmC!#YgL!#ZT7!#" +
        "]|<!#^v!!#aZC!#dUN!#[^0!#^iI!#aX?!#am>!#[|E!#`q>!#af;!#[f:!#]fC!#^ZL!#^zL!#bhJ!#Ym<!#YyE!#ZQ*!#]XF!#]{9!#^uF!#" +
        "_bC!#`g3!#aYJ!#a[D!#bWK!#c^6!#cv!!#dU*!#_kJ!#_q)!#`Y(!#`|5!#bu*!#dX%!#au@!#Zs=!#[gF!#`R*!#`j&!#^w<!#_m,!#bQ2!#" +
        "c])!#Zs6!#[X(!#]w1!#^^2!#^e%!#`VA!#`]5!#cX5!#ZPL!#`j3!#Yz<!#Yz,!#_t<!#`YF!#`}/!#cY1!#ay2!#[|K!#]vN!#av:!#Yf1!#" +
        "[U7!#[m@!#^}M!#_Y<!#ZR5!#_n/!#YnG!#[k3!#Ye3!#^W8!#]]B!#`V4!#ZV)!#ZpF!#_c/!#aP+!#atB!#^Q:!#bb@!#^V !#[}L!#`w7!#" +
        "]R6!#_Y1!#YhJ!#Yx%!#Yz)!#]n=!#`U'!#`tK!#au<!#bn7!#ZQA!#ZXL!#ZvG!#[g.!#]_3!#^j.!#_o0!#cTO!#cp2!#dX=!#dYF!#Y~C!#" +
        "]dN!#^P%!#b`N!#[d@!#[uN!#[x4!#]WJ!#^e9!#^q7!#_T;!#_rF!#`ZN!#`iE!#b_@!#aSF!#be)!#bvB!#Y{I!#Y~K!#Z[=!#^n@!#aj&!#" +
        "atB!#[f9!#[m!!#]Q?!#^Q.!#`Q6!#^};!#Yj#!#Zi!!#[U7!#[`>!#[mJ!#^~J!#_SI!#`e(!#`hJ!#bp@!#c](!#c^L!#cc6!#YmA!#_r*!#" +
        "bmJ!#cZF!#[r)!#Yh !#YtN!#[U>!#[W3!#]^5!#]vN!#^t2!#__(!#aT&!#bg&!#d^M!#]c>!#cWF!#Y~1!#]hK!#]k9!#^Z!!#^b<!#_QE!#" +
        "_Y%!#_k)!#`V !#cdN!#Yx)!#[y4!#cY4!#Yq)!#[]'!#^^B!#b_D!#[jC!#[t0!#]l/!#^}M!#cYB!#Y|-!#ZWG!#[X+!#]a%!#]gL!#]o6!#" +
        "^X!!#_QB!#_]#!#`d5!#aj3!#ajE!#bn4!#c[B!#ZS/!#^c,!#ZX'!#^t4!#_TJ!#aY>!#cZ1!#c{%!#dXE!#]i9!#^^!!#`qN!#_x3!#_z,!#" +
        "`S.!#^y>!#^m?!#ax8!#Yi.!#`y,!#Y|>!#Y{9!#[eD!#[|O!#`TD!#[S1!#^Y.!#]d<!#b`'!#ag:!#cX7!#an7!#[fC!#Yw*!#Zb,%#ZpB##" +
        "]c*%#Yz>!#^{L!#_b&!#_oB!#_p6!#_p=!#_q9!#c_,!#`T,!#`eK##aZ(##av4%#be>!#biK&#ch'!#ch4!#ci2!#dS@!#bi,!#cZE!#Yn6!#" +
        "Yu-!#Yw7!#ZPC!#ZQ0!#ZSA!#Za7!#ZcD!#ZeJ!#Zp(!#Zr4!#[X*!#[X4!#[p8!#[u&!#[uL!#[x&!#][G!#]` !#]cG!#]nA!#^[+!#^_D!#" +
        "^e8!#^r.!#^v3!#_R0!#_kO!#_oD!#_oO!#_oN!#_p(!#_p.!#_p5!#_q7!#_q8!#_u2!#_vE!#_}B!#`ZN!#`[5!#`]?!#`d.!#`g7!#`r%!#" +
        "`u'!#`u'!#aP9!#akF!#anB!#av=!#awG!#bQC!#bRJ!#bbF!#be>!#c[C!#cbK!#cd+!#[oG!#QiQJ!#`s %#YeL!#YyC!#Yx#!#Ym6!#Yw/!" +
        "#Yx<!#ZPA!#ZQF!#Za7!#Z_K!#Za3!#ZbN!#ZpB!#Zr?!#ZuF!#Zv(!#Z| !#[Q0!#[fB!#[fI!#[iO!#[k7!#[qN!#[t:!#[s !#[uL!#[tL!" +
        "#[x&!#[y:!#]S,!#]U(!#]V0!#][N!#]c*!#]fC!#]fG!#]h&!#^P'!#^Q:!#^Z!!#^cM!#^c=!#^e8!#^jN!#^r.!#_fK!#^v=!#^y-!#^{L!" +
        "#_T!!#_W.!#_X5!#_^1!#_^3!#_b&!#_b7!#_c !#_dJ!#_d@!#_m.!#_wG!#_}B!#`RE!#`W?!#`ZN!#`c(!#`g7!#`yH!#`}-!#abM!#alI!" +
        "#an2!#anB!#au)!#av4!#au5!#av=!#av:!#av)!#awG!#ay<!#bRJ!#b`#!#bfJ!#bm/!#br&!#cY8!#c[C!#c_,!#cb'!#cbK!#cc)!#cd+!" +
        "#ct !#d_.!#Qev>!#Qev8!#QgYI!#WYE!#WsB!#Wt5!#Qjz1!#QlWL!#Qp^+!#d]1!#d^NQ8&q;pD#&r&pG-&qKq!!&qKq#!(qKpLq!!(qKpLq" +
        "#!&q2pG!&q2pH!&q2pL!&q3pL!&q4pL!&q5pL!&q6pL!&q7pL!&q8pL#&q:pL!&q;pL!&q<pL!&q=pL!&q>pL#&q@pL#&qBpL!&qCpL#&qEpL!" +
        "&qFpL#&qHpL!&qIpL!&qJpL!&qKpL!&qLpL!&q7pI!&q3pO!&q=pO!&qFpORk:'q~%q~F#'q~'q~F1'q~1q~FRI'rR3rR)!'rR4rR)[D'r^Or^" +
        "F!'r^Or_1WO'rg!rg#!'rg!rfH#'rg!rg'U8'rl<rl3!'rl=rl3gq-&QZ^CQZ_!!&QZ^DQZ_!!(QZ^DQZ_!QZ_,!(QZ^DQZ_!QZ_-!(QZ^DQZ_" +
        "!QZ_.!(QZ^DQZ_!QZ_/!(QZ^DQZ_!QZ_0QK&QZ`IQZ_!!&QZ`JQZ_!!(QZ`IQZ_!QZ_,!(QZ`JQZ_!QZ_,!(QZ`IQZ_!QZ_-!(QZ`JQZ_!QZ_-" +
        "tl<#Yf5!#Yf0!#Yf9!#QaSB!#YlD!#Yn6!#YnC!#Yp.!#YrJ!#Ys;!#Yu-!#YtC!#VaH!#Qaq#!#Yw7!#Yw>!#YwN!#Yx3!#QajH!#Vb5!#Yx!" +
        "!#YxI!#QakI!#Yy%!#Yy2!#Yi:!#Yy:!#YyC!#Qrl+!#Y{'!#Y{5!#Vc-!#Y|?!#Y|J!#Y}H!#Y}M!#Vd5!#ZPA!#ZPC!#ZQ0!#ZQF!#ZR!!#Z" +
        "R#!#ZR5!#ZS9!#ZSA!#ZSJ!#ZT5!#ZT?!#ZTA!#ZTA!#ZTA!#QbX !#^lD!#ZV0!#ZVE!#Qb_E!#ZW!!#ZW)!#ZW>!#ZZL!#ZXB!#ZY#!#ZYD!" +
        "#Z[ !#Z]H!#Z^4!#Z_I!#Z`+!#Z`L!#Z`L!#Za3!#ZaE!#ZaM!#Zb.!#Zi@!#ZcD!#ZiA!#Ze3!#Zf(!#Y{9!#ZsL!#Zm@!#Zn8!#Zo!!#Zl+!" +
        "#ZoH!#ZoG!#Zr8!#Qcf@!#Zt !#Zt'!#Zt6!#ZtJ!#Zu#!#Zv6!#Qcp8!#QcqL!#Zy6!#Zz7!#ZzC!#Zy !#Z|&!#VnB!#Vo !#[P>!#[QF!#[" +
        "QF!#QdRJ!#[TA!#[U(!#[U7!#[UC!#QdZ*!#[UO!#[V(!#[i9!#[VD!#VqK!#[X&!#[X4!#[Z*!#[Y%!#QdjD!#[^!!#QdjF!#[^N!#[^K!#[_" +
        ".!#[a7!#[a8!#VuA!#[b%!#[c !#[c7!#[d5!#VvF!#Qd~K!#Vw2!#[eN!#[f!!#[f&!#[f:!#QtrB!#[g@!#QeY-!#QeY-!#`r9!#[h6!#[h6" +
        "!#VxO!#QgS@!#QltN!#[iH!#[j!!#Vy=!#[k#!#[l)!#[l3!#[m'!#[p%!#V{8!#VzH!#[p8!#Qen8!#[q=!#[t4!#[t8!#[t:!#[t8!#[u8!#" +
        "[uL!#[vB!#[v4!#[v?!#[w@!#[x&!#[x*!#[xD!#[xO!#[z5!#[|-!#[} !#]PB!#QfVN!#]P/!#[}J!#]Q,!#]QG!#]SL!#Qf[M!#]U.!#]S-" +
        "!#]R?!#WQF!#]VG!#]W.!#]WM!#]W'!#WS(!#][G!#]]6!#QfsD!#]`!!#]f#!#]b-!#WVK!#]cG!#WV:!#WUD!#YxN!#Yy!!#]f,!#]d#!#`k" +
        "'!#XY=!#]fC!#]fG!#]fM!#]h.!#]h!!#QgY7!#WWM!#]k@!#]i'!#]m<!#]nA!#Qg^)!#]nJ!#]l7!#]qF!#WYE!#]rF!#]tK!#]v6!#]z<!#" +
        "Qgj7!#]{A!#W]6!#]}+!#QguA!#]~0!#W^>!#]~N!#^PM!#^Q:!#^Q;!#QhQ-!#Qdf!!#QhS>!#^TD!#Qh^4!#^W+!#^W9!#^U/!#^Y&!#^YN!" +
        "#^[+!#^Z!!#^ZK!#^[,!#^[9!#Qh`:!#^YD!#^`+!#^a<!#Wc=!#^c=!#^c9!#QhiO!#^_!!#^g(!#Qhm#!#Qhn&!#^i#!#^k;!#^jN!#^jK!#" +
        "WeD!#^kL!#^m!!#^lK!#^n%!#Qak!!#^q3!#Qh}I!#^s.!#QiUO!#^v0!#^v=!#^w*!#Qid(!#^x,!#^xA!#QijA!#Qio:!#^}@!#^~!!#WkF!" +
        "#^~=!#Wl#!#Wl#!#_S'!#_S<!#_T!!#_T7!#_UN!#Wn+!#_WL!#QjW:!#_X8!#QjY:!#_Y<!#QeP9!#_^#!#Qjk;!#Qjl#!#Qjo&!#Ws&!#Ws2" +
        "!#_c !#QjrK!#QjrJ!#QjsC!#Qjt/!#_cL!#_cM!#_cM!#_dJ!#Wt5!#_f/!#WtB!#Wv6!#QkU9!#_j:!#_kJ!#_m.!#Wx'!#QkaH!#_p.!#Qk" +
        "d2!#Qke/!#_q9!#_s9!#WyE!#_u2!#_u<!#_uA!#Qkt4!#QkzK!#QkzK!#_y(!#W~2!#QlQ;!#_}H!#_}K!#XP)!#QlV*!#`T@!#XRF!#`U(!#" +
        "`U!!#`U@!#Qlh !#`WG!#XTK!#`YO!#`[.!#`]C!#XV !#Qlv@!#Qlw1!#XVG!#Qlz9!#`d6!#Ql|B!#`e!!#`g,!#`g7!#QmV@!#QmX-!#`i6" +
        "!#Qm[(!#`iF!#QgW/!#XY9!#`k,!#`lO!#XZA!#`n.!#Z}G!#Qmg-!#Qmg;!#QgX5!#QgX>!#`r9!#`r<!#bb.!#X]E!#`u?!#`u9!#`uK!#ZP" +
        "-!#`v1!#`v3!#`v=!#`w8!#Qm{*!#`w7!#`xA!#`z+!#`{G!#`xG!#`|)!#`}%!#aP9!#`yI!#`|6!#`|8!#`|H!#QnQ>!#QnX1!#QnU%!#XaM" +
        "!#aSI!#aSK!#aT@!#Qn|F!#aV2!#Qnc&!#Xc!!#Xc'!#QneO!#Qnl.!#Xc1!#a[8!#a[D!#a[O!#a]!!#a^5!#a]B!#a`>!#a_@!#abM!#aa*!" +
        "#ab?!#ac,!#XeA!#ae+!#aeK!#Xf5!#agN!#ah!!#Qo]1!#aj;!#ajB!#XgC!#ak0!#Vb7!#Qoj !#Qon !#XjB!#XjK!#at8!#av)!#ay<!#a" +
        "}O!#QpQ(!#bPI!#bQ1!#bS/!#bU/!#Qp`+!#Qa{ !#bW'!#bVF!#bWL!#QbPD!#b]J!#b`#!#QqV(!#QqVC!#bg>!#bi?!#bj1!#Qq^B!#bj;!" +
        "#bpD!#bt+!#bt,!#br,!#bz9!#b{'!#Qqy4!#cT-!#Xz9!#cU+!#QrRA!#X|.!#c[!!#[`6!#c^'!#QrhI!#Qrm8!#YP,!#YP4!#cb,!#Qrx.!" +
        "#YQB!#Qr{0!#cc)!#cc)!#ccG!#QsR<!#cgH!#YT9!#ci3!#cl'!#clB!#cn !#YWJ!#Qsr#!#ct !#cz<!#c~A!#Y^6!#Y_'!#dQO!#Qtc0!#" +
        "Y_2!#Qtd9!#Qtj.!#Qtm'!#dY3!#Ya4!#dZC!#dZH!#dZO!#d[+!#d[2!#d])!#QuQ,"

/** First code point less the last before, how many, the rank of their combining class. */
internal const val MARKS: String =
    "aB7Q&!!Q'!&O!!Q'!!M!'O!#K!&O!#K!-O!'!!&O!%Q&%!Q&%!Q*!!Q&!%O!%Q&!#O#%Q&!&O!!Q&!!Q'!#O!!Q&!!Q(!#Q)!!Q(!#Q)!!Q(!/" +
        "Q&V 'Q&UF!O!&Q&!!O!%Q&!!Q !!O!(Q&!(O!#Q&!!O!#Q&!!Q !!Q%!!Q&!!'!!(!!)!!*!!+!!,!!-!!.!!/!#0!!1!!2!!3#!4#!5!!6#!Q" +
        "&!!O#!/Q=*Q&!!;!!<!!=Q%!8!!9!!:!!;!!<!!=!!>!!?!#Q&!#O!'Q&!!O!#Q&!!O3!@R,)Q&%&Q&!!O!!Q&%#Q&#!O!#Q&!!OF!AA!Q&!!O" +
        "!#Q&!!O!#Q&!%O!!Q&!#O!!Q&!!O!%Q&!!O!!Q&!!O!!Q&!!O!!Q&!!O!#Q&S9)Q&!!O!!Q&E&Q&#+Q&#%Q&#'Q&N%OR?0Q&#!O!#Q&!!O!#Q&" +
        "!!O!%Q&!%O!!8!!9!!:!%Q&!!O!#Q&!#O!'Q&Q1!#3!&&!Q&!!O!#Q&R.!#3!&R5!#3!&R5!#3!&R5!#3!&RF!&RF!&*!B!!CR,!#3!&RF!&RC" +
        "!&R4#D!!&0&ER3#F1&GQA#O>!O#!O#!MQ,!H!!I#!J(&I%!I##Q&!!&##Q&Q3!OR7!###&QG!O`@%Q&e?!&B!&S6!&-!Q&T6!Q%S(!Q !!Q&!!" +
        "OTF!Q&!!OQ<!&7*Q&%!OQ%'Q&!(O!#Q&!!OR=!#2!&I!Q&!!O!)Q&Q+#&Q/!#.#&Q8!#S1%Q&#!!!'O!#Q&!&O!!Q&#)!'!O)!Q&&#Q&T1#Q&!" +
        "!O!)Q&!!O!#Q&!!Q)!!L!!O!!K!GQ&(!Q&!!Q(!!O!!Q&!!O`A#Q&!#!!&Q&!%!!#Q&'!Q&&#!!!Q&!!O!!Q&!#!!&O!!Q&QeE%Q&S&!&R'BQ&" +
        "]%!N!!Q%!!Q'!!Q !#Q!R0#%_[E!Q&',Q&C#Q&QE#Q&V!!&T(!&>4Q&Q.%OH!&R&!#/!&U,!Q&##Q&!!O%#Q&(#Q&#!Q&Q)!&U3!&YkC!7aD)Q" +
        "&!)O!#Q&f*!OTM!OS.'Q&u=!O#!Q&K!Q&!!!!!O'!&S>!Q&!!OnL!&Q-!&Q.!&!!#Q:%Q&Q%#&Q3!#QA!&,!#R1!&!!#SK!#!!&QF!#3!&;)Q&" +
        "&'Q&T8!&&!#RB!&!!#U8!&!!#RE!&R=!&!!#R:!&m.!&YhM'!Q0)Q&Yx#!!Rh?#M!%!&!Q#!'M+*O%'Q&!#OA&Q&S-%Q&Qo6)Q&#3Q&%)Q&##Q" +
        "&#'Q&QR()OR4(Q&!!#"
