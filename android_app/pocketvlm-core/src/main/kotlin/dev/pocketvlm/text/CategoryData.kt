// Written by `python -m android_app.unicode_tables`: what the tokenizers library says of every code point.
package dev.pocketvlm.text

/** Runs of code points but surrogates: (length - 1) * 24 + category. Read by [Categories]. */
internal const val CATEGORY_RUNS: String =
    "b*Q55Q5/0343.KTJKQ6K^#/306-6^%/404bB3QO7367&1487674D6!K6,&2Q.3[84S(]!4SA ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! !" +
        " ! ! ! ! ! ! ! ! ; ! ! ! ! ! ! ! ; ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! !:! ! Q%:! !:!Q#;Q<!:!Q#Q%:!:! " +
        "! !:! ; !:!Q#! !:;& Q%Q@ #! #! #! ! ! ! ! ! ! ! ; ! ! ! ! ! ! ! ! ; #! !Q#! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! " +
        "! ! ! ! ! ! ! ! ! ! ! S):!:; !Q<! ! ! ! t9&^=XMR UGW,R)S<%6%XFQ]! ! !%6 !Q %Q%3 R#N 3Q#8 8:!X28T*bE ;Q#Q% ! ! " +
        "! ! ! ! ! ! ! ! ! R' !4 !:;k&i; ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! !7R+A ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! " +
        "! ! ! ! ! ! !:! ! ! ! ! ! ; ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! " +
        "! ! ! ! ! ! !8d0Q %ROeK3.Q O58h%.'3?3?3'T(^@R#Q@KXHQ6K5KOU138Q5a.%TFZ;TJQM>'QU,3&S-87RC=?7QA>TJQ(O&W)Q &'`,^AQ" +
        " QP U1&W.TJaFT/=7Q5%Q 'M[#QA%T/%Q)%R+Q WA8]>Q)Q 38U0R<]&6RBT(T/eN%]'8a/(lD'('&Q*SEQB'@&S-TF?KTJ3%W4'@8SDQ >Q [" +
        "#8S,8&Q:Q@Q '&Q*QAQ @Q @'&T((R#>8Q(?Q TJ>MRH75&3'Q ?(8RBR#>Q [#8S,8>8>8>Q '8Q*?R#?Q Q)Q:'S>Q@8&S>TJ?Q('3U*?(8T" +
        ".8Q(8[#8S,8>8R*Q '&Q*R+8?(8@'Q &WF>?Q TJ35S>&RC8'@8SDQ >Q [#8S,8>8R*Q '&('(QAQ @Q @'S>?(R#>8Q(?Q TJ7&RHU*'&8RB" +
        "Q:Q(8Q@Q:>8&8>Q:>Q:Q(Q:UHR#@'@Q:Q*8Q*'Q &S&(W.TJQ.S%57R<'Q*'SD8Q(8[<8WLQ '&Q)QB8Q)8QAS>?8Q(Q &Q >?Q TJS>3S27&'" +
        "@3SD8Q(8[<8TF8R*Q '&('R,8'@8@?S>@S&>8>?Q TJ8>(V,?@T.8Q(8eN?&Q*QA8Q*8Q*'&7R#Q((S2Q(?Q TJT47RB8'@8XNQ:]&8T.8&Q S" +
        ",Q:'R#Q*Q)8'8SFS&TJQ @3V,i>'>S-R#5RB%SE3TJKd.>8&8R*8]&8&8TF'>T/&Q R*8%8S-8TJQ Q@a@&Q9WA73Q9?S%TJTL7'7'7'/0/0@S" +
        "D8c2R#VK(R+3?R*U18c38T''S%8OR7R!Kd.g @QA(RC(?@?&TJRORB@?Q@Q)&Q*>S.Q(QAV2'@?RD'&(TJQ*'Od08 R< Q fM3%Q%Sr,8Q@Q S" +
        ",8&8Q@Q eN8Q@Q aF8Q@Q S,8&8Q@Q W48n08Q@Q s:Q Q)T;Z(Q:WLU)S&}2Q R?Q .WQ#73X68^(/0Q:wBQ5Q-SDS>XNQ)(T@Y8?(KT@XN?V" +
        ",V28Q(8?V,kB?(S-SF'@U1Q5%Q55&'Q TJS&TLS&RO.QMQ)8'TJS&bH%l,S>R*?b0'&R<u&U*`D8Q)QB?Q*R#@'RDQ)R#7Q:KTJ`,Q R*UBg:R" +
        "#^(S&TJ,Q:bA[<?@'Q Kl,('(S-8'('@SERDTGQ 'TJS&TJS&S9%ROQ VK)WMj:QA(i&'(R+('R,'@SD8KTJS9U)T/T?Q5?(`,(QA@?(Q)>TJg" +
        ":'(?Q*'(Q)@T(QMc2SFSE@?Q:R7TJQ:Q(TJ`,RAKT+ !R<fLQ Q#T!T(Q)3V3(S-Q@'RB'>(?&R<g7q5V/%b-cIqO ! ! ! ! ! ! ! ! ! ! " +
        "! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! " +
        "! ! ! ! ! ! ! ! ! T+ ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! !" +
        " ! ! ! T+S@R?Q R>Q SAS@SAS@R?Q R>Q SA8 8 8 8 SAS@VGQ SASBSASBSASBR'8;Q<#6!Q8Q%8;Q<#Q8Q=Q ;Q<8Q8SAR&Q8Q Q%8;Q<#" +
        "NXHRJK12/I2/1T!T(T;12QMEQ54/0U=43-U%XH,%Q RHQ6/0%TLQ6/08V1Q:b'WFV3QC'Q+UIWFO R! O!Q#;Q#!7 O4R&S% 7 7 7Q<7!Q<!Q" +
        "@!O;:R8 Q=74O!7X#bM !QE,OR#R8R;LR!4O4O4S=4a'LO474a'SQBT'/0/0Z3LS=/0{+4`=]LeGS v9[6UAZLp y?[*RS54T?4m'T#Q[I4Rv1" +
        "/0/0/0/0/0/0/0`2gKR8/0a#/0/0/0/0/0X,Rz9Qg,/0/0/0/0/0/0/0/0/0/0/0qD/0/0a</0R{8iOZHOS e/Q a?8QXCi:i; !Q#; ! ! !Q" +
        "<! ; R?=Q#! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ;S" +
        "% ! !Q) !R<QM,Kd18!R<!Q mFS>%3W.'[<T@S,8S,8S,8S,8S,8S,8S,8S,8a/K1212Q512312T;.K.312K12/0/0/0/0R7%U%FQM.3/V?OQ5" +
        "/0/0/0/0.bB^98QP3V,Rd=^:X/8Q57%&+/0/0/0/0/0O/0/0/0/0./H7T3QA@.R)OQ-%&3O8}6Q ?N=&.QP:3Q'&R<g 8QR>8OQFU)a.dET@7W" +
        "La'8TL`=SJ7W:a?TLe/W:SmKQmsJr1UX_J%]|LQ:m?T@e6RAKSQ4%Q5WLTJ>Z4 ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! !&'" +
        "Q+3TG3% ! ! ! ! ! ! ! ! ! ! ! ! ! !=?u&TK?ROT([LT-N ! ! ! ! ! ! Q% ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! ! !" +
        " ! ! ! ! ! ! ! ! !%SA ! !:! ! ! ! !%N ! !& ! Q% ! ! ! ! ! ! ! ! ! !R&!R&! ! ! ! ! ! ! !Q<! !:!Q  !8!8! ! ! ! Z" +
        "LQ' !&=!S,'Q('Q@'[<@?(R!'Q:RHO57S&kBQMT(@j@WN?T(KTJS&XORBQ5&3>'TJ_*SEK[<U1@UB3_BQ:Q)(i&'@QA@?Q*V?8%TJR#KR*'%T." +
        "TJR*8eNRC@?@?T@Q('SD'(Q TJQ QMWL%RBQ9&('(j@'&Q)>?R*?&'&]8>%KU0(?@K&=('U*RBQ RBQ RBT@S,8S,8fM6Q?T+%NR#z-bH@'@'@" +
        "3('Q TJS&Rsq6V,[<R#j(Qkn*TV:Q QXJdFS)V,R'R<&'TF4V28R*8&8>8>8QYLXFX0TTN0/X/qNQ lDS>7a@UH5Q9WMS9/03S&WM3FE/0/0/0" +
        "/0/0/0/0/0K/0QMQ/Q58QM./0/0/0Q54.Q6835KR#R*8Qi R#Q55Q5/0343.KTJKQ6K^#/306-6^%/404/03/0KTF%h#=`DQ:RBQ RBQ RBQ Q" +
        "(Q:M467M87QNOVDOQ UH8^(8Y88>8W4Q VJbBQbDR<Q5R#h*Q:T?l1QFXGDQ98VCQ:7i8h5'QfF_BQ:j(WF'^FR#a.QFT@Z +SD+R<d4R+R<`," +
        "83c2R#SD3R/fJe2e3y.Q TJS&c.R#c/R#e6T(kBUB3U,8W08S(8:8U-8W18S)8;Q:kBV,ShHT@[#U*SD]8RA8f78T-tNRBQ &8g:8>Q:&Q [<8" +
        "3SJ[<OS2`DT(T4j Y88>R<R0[#RHQ:3^(R<3r2mFR#D>X#Q hB&Q)8?R<QAQ@8Q(8_BQ Q)R#'T4S>T;S>_BD3_BQ.a@SD7_*?R#R0S9T@lDQ:" +
        "S9[#Q SJY8R<SJXNS>QMV,S2zBv@m@k&VDk'S>RHc2QAT(TJS&TJQ@%&ZNQ:R+.%ZOT(LRa8`J8f88?.Q >X0Q(m@QA_BTL&T([#U1QFR7[6XN" +
        "QAQMdFZ:S2Z4[<T@('(l,W5S9R#Z(TJ'>?&T@Q)(h#Q*QA@?K8QM'VD]>S>TJS&Q)c2R+(SE8TJQM&@&T(bH'K&T@?(i>Q*T/@Q@QMQA3('TJ&" +
        "3&Q58Z(UBXN8]>Q*Q)@'(?RO'>'q0S,8&8Q@8W48TF3S&i&'Q*SER<TJS&?@8SDQ >Q [#8S,8>8R*8?&@'QBQ @Q Q*Q &S&(R<R*@Q S-Q:R" +
        "+UBTF8&Q &8d48&Q*RC8(Q (8QB8@'('&'&K8KT(?`&l,Q*SE@Q)('Q@R7TJK83'Q(`>i>Q*RC('QB?(?>3&T(TJQy<i&Q*QAQ QB?(?[IQ@?b" +
        "Bi>Q*SE@'(?Q5&UBTJS&V?YJg '('@RC('&3S&TJS&Z&_<^@Q '('@QA(R+R#TJDQ57S,RT8g:Q*T/(?3QV(a*a+TJT4V,SDQ &Q SD8>8]&RD" +
        "8@Q ?('&(&('Q5T@TJu8SDQ dLQ*QAQ ?QB'&3&(_#&TGe6RC(&QAT!'T(&RC@Q)h<V3(?Q5&R7VDv@S>U%RRLaF3W.TJS&T.8cJ(S-8RC('&R" +
        "7U*TJY>Q:K`,Q [%8(S-(?(?w#S,8>8d4RCQ:'8?8S-&'T(TJS&RB8>8a.R,8?8@'('&S>TJm(U+Ru0Y8?@KS>?&(V28b0@R+Q:@'('V?TJ'}0" +
        "&WFZ@T'QOXGVD3Ze>QW*Q[=8R7UBRYHnz.QT*KVD]VJX0'RBW5U*~^LR<VlDQpl*`,UIQ*Q)TJdo@Ve6S>`D8TJR#KyF8TJS&`,Q R+3U*i>S-" +
        "R7R!Q?37U*TJ8S28Z:R<Y8Tz2Q'e6=Q5TJR[.a*a+[BQMQV@wBR#'&m0S>QAV1r2=3%'UB@Q Q;T@QhkNT(_Q8f2TFRY`BQ?8S+8=8S^4WF&`&" +
        "Q(Q &W.Q@T(Tg*kX(QY4R<V2Q:T.S>TFQ 7?3}n:Rr)TJS&T|5x>h=Q [=T@Q_7p.Ru/U*e/Q p-@Q)Q9RDT(SEOS-`=QApEZLs3Q)7Qb>Z(V," +
        "Z(V,~1T@]DQi4^#^%^#S)8XK^#^% 8:Q  Q :Q Q<8S@Q=8!8S)8U-^#^%:8Q<Q S@8S(8^%:8Q<8R&8 Q:S(8^%^#^%^#^%^#^%^#^%^#^%^#" +
        "_'Q ]:4];4R?]:4];4R?]:4];4R?]:4];4R?]:4];4R? !Q jDUv%m/R!jAT''W-'OR7WFR+8W5]hNTC&YMS&R?Rd&S-8X7Q S-8?8R+R<pKb*" +
        "'Q]4h#Q:S-S+Q TJR#&7SmL`,'XHg:QATJR<5U]#^@%QATJRd>`,?&TJR#3Ue4S,8Q@8>8W48RZ2Q T4S-f2b,b-S-%R#TJR#KXz:o87Q.5QFx" +
        ">h*7W:RY*Q@8^@8>8&Q &8TF8Q@8&8&S&&R#&8&8&8Q(8>8&Q &8&8&8&8&8>8&Q Q@8S,8Q@8Q@8&8TF8X6R<Q(8R*8X6l&LSRHgKR#QV'V,W" +
        "EQ WE8WE8d-U*V8QvMn*`%VDgKR#T?S>OW.S%Qs0RwKR:X[ER#XGQ:VCQ:Qa!R#QS9S&V+R#7WFV+R#n)T(U)S&eGT(`=Q V+R#Oq0Sx1V,W-Q" +
        " VCQ:U)R<n)S>WEQ UAS&T?S>Qo?8QQMTJ[p2Zii.a@QQTJS&Rh4Q Qd`HW.Qws:WFWR&l}<VV2bSBQZP6R<QQiBSvju<RqGQRa`."
